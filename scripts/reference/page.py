"""What the pages are made of."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterable, Sequence

NOTE = "<!-- Written by `make docs` from the code; do not edit. -->\n\n"


class Wordless(Exception):
    """Something that users meet has no words of its own in the code."""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    head = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
    return head + "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def code(text: str) -> str:
    """Return ``text`` as code that may stand in a table, where a bar within backticks would end the cell."""
    if "|" in text:
        return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"
    return f"`{text}`"


def plain(docstring: str) -> str:
    """Return words from a docstring or a help text on one line, in Markdown instead of reStructuredText."""
    text = re.sub(r"\s+", " ", inspect.cleandoc(docstring)).strip().replace("``", "`")
    return re.sub(r"`([^`]*)`", lambda found: code(found[1]), text).replace("|", "&#124;")


def summary_of(what: type) -> str:
    """Return the first sentences of a class's own docstring: its first paragraph.

    :raises Wordless: it has none.
    """
    # A dataclass without a docstring is given its signature for one.
    own = vars(what).get("__doc__") or ""
    if not own or own.startswith(f"{what.__name__}("):
        raise Wordless(f"{what.__module__}.{what.__qualname__} has no docstring")
    return plain(inspect.cleandoc(own).partition("\n\n")[0])


def words(text: str | None, of: str) -> str:
    """Return ``text`` on one line; raise ``Wordless`` when there is none."""
    if not text or not text.strip():
        raise Wordless(f"{of} has no description")
    return plain(text)
