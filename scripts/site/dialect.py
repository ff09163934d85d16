"""From the Markdown of code hosts (GitHub's) to that of MkDocs (Python-Markdown), where the two differ.

The first lets a list follow a paragraph at once, and indents what belongs to an item as far as the item's text; the
second wants a blank line before a list, and four spaces a level.  In a table the first takes the backslash off a bar
within code, the second shows it.  The pages are written for the first.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

INDENT = " " * 4
BAR = r"\|"
_ITEM = re.compile(r"( *)([-*+]|[0-9]{1,9}[.)])( +)(?=\S)")
_FENCE = re.compile(r" *(`{3,}|~{3,})")
# What begins something else than a paragraph, and so cannot continue one.
_BLOCK = re.compile(r" *(?:#{1,6} |`{3}|~{3}|>|\||<)")


_BAR_IN_CODE = re.compile(r"`([^`]*\\\|[^`]*)`")


@dataclass(slots=True)
class _Reading:
    """Where in the lists a line is: ``columns`` are those where the items' texts begin, outermost first."""

    columns: list[int] = field(default_factory=list)
    fence: str | None = None
    after_text: bool = False

    def leave(self, column: int) -> None:
        while self.columns and column < self.columns[-1]:
            self.columns.pop()


def to_python_markdown(text: str) -> str:
    """Return the same document for Python-Markdown."""
    reading, lines = _Reading(), list[str]()
    for line in text.splitlines():
        lines += _converted(reading, line)
    return "\n".join(lines) + "\n"


def _converted(reading: _Reading, line: str) -> list[str]:
    column = len(line) - len(line.lstrip(" "))
    if reading.fence is not None:
        if line.strip() == reading.fence:
            reading.fence = None
        # A line of code keeps its own indentation beyond that of the item.
        inner = min(column, reading.columns[-1]) if reading.columns else 0
        return [INDENT * len(reading.columns) + line[inner:] if line.strip() else ""]
    if not line.strip():
        reading.after_text = False
        return [""]
    if (item := _ITEM.match(line)) is not None:
        return _item(reading, line, item)
    is_block = _BLOCK.match(line) is not None
    if line.lstrip().startswith("|"):
        line = _BAR_IN_CODE.sub(lambda code: f"<code>{html.escape(code[1]).replace(BAR, '&#124;')}</code>", line)
    if not reading.after_text or is_block:
        reading.leave(column)
        inner = reading.columns[-1] if reading.columns else 0
    else:
        # It continues the paragraph, however far it is indented.
        inner = min(column, reading.columns[-1]) if reading.columns else 0
    if (fence := _FENCE.match(line)) is not None:
        reading.fence = fence[1]
    reading.after_text = not is_block
    return [INDENT * len(reading.columns) + line[inner:]]


def _item(reading: _Reading, line: str, item: re.Match[str]) -> list[str]:
    is_first = not reading.columns
    if is_first and reading.after_text and item[2] not in ("-", "*", "+", "1.", "1)"):
        return [line]  # A number at the start of a line of text.
    reading.leave(len(item[1]))
    indent = INDENT * len(reading.columns)
    reading.columns.append(item.end())
    before = [""] if is_first and reading.after_text else []
    reading.after_text = True
    return [*before, f"{indent}{item[2]} {line[item.end() :]}"]
