"""Documents as tests see them: their blocks, the commands in their sentences, their headings and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# Languages whose blocks a reader types or saves; each such block is run, unless its fence says why it is not.
RUNNABLE = ("sh", "sql", "python")
_FENCE = re.compile(r"^( *)```(\w+)(?: +not-run: (.+?))?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"`((?:tailrace|curl|psql|pytest|uvicorn) [^`]+)`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; ``reason`` says why it is not run, None when it is."""

    language: str
    reason: str | None
    text: str

    @property
    def file(self) -> str | None:
        """The file that a block is saved as: its first line names it."""
        found = re.match(r"# (\S+\.(?:py|toml))\n", self.text)
        return found[1] if found else None


class Page:
    """A document of this repository, by its path."""

    def __init__(self, path: str) -> None:
        self.path = ROOT / path
        self.text = self.path.read_text("utf-8")
        self.blocks = [Block(language, reason or None, text) for _, language, reason, text in _FENCE.findall(self.text)]
        self.prose = _FENCE.sub("", self.text)
        assert self.text.count("```") == 2 * len(self.blocks), f"{path} has a fence that is not understood"

    def of(self, language: str) -> list[Block]:
        """Return the blocks of a language that are to be run."""
        return [block for block in self.blocks if block.language == language and block.reason is None]

    def file(self, name: str) -> str:
        """Return the Python block that is saved as ``name``."""
        (found,) = [block.text for block in self.of("python") if block.file == name]
        return found

    @property
    def commands(self) -> list[str]:
        """The commands that stand in sentences and tables, each once."""
        return list(dict.fromkeys(_COMMAND.findall(self.prose)))

    @property
    def anchors(self) -> set[str]:
        """What a link to a heading may name, as GitHub makes it."""
        return {
            re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower().replace(" ", "-")
            for heading in _HEADING.findall(self.prose)
        }

    def table(self, heading: str) -> list[list[str]]:
        """Return the rows of the first table under a heading, without its head."""
        under = self.text.partition(f" {heading}\n")[2]
        rows = []
        for line in under.splitlines():
            if line.startswith("|"):
                rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
            elif rows:
                break
        return rows[2:]

    @property
    def links(self) -> list[str]:
        """Where it links to, as far as that is in this repository."""
        return [link for link in _LINK.findall(self.prose) if "://" not in link]
