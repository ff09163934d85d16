"""The report as Markdown.  Pure, and without a time in it: one folder has one report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from tailrace.demo.ranking import Digested, Ranking

# The first line of every report; a file that begins otherwise is somebody's work and is never overwritten.
HEADING = "# Digest of "
# A table of more rows makes Markdown viewers slow; the report says how many it leaves out.
ROWS_MAX = 5_000
# What each count of files left out is called in the report.
SKIPPED_NAMES = {
    "binary": "binary",
    "undecodable": "not UTF-8",
    "huge": "too large",
    "unreadable": "could not be read",
    "links": "symbolic links",
    "special": "neither files nor folders",
    "unnameable": "with a name that is not UTF-8",
    "beyond": "beyond the limit of a digest",
}
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def render(folder: str, ranking: Ranking, texts: Sequence[Digested], skipped: Mapping[str, int]) -> str:
    """Return the report on ``folder``.

    :param texts: every text file, in the order that ``ranking`` was made from.
    :param skipped: how many files were left out, by reason.
    """
    lines = [
        f"{HEADING}{code(folder)}",
        "",
        f"{ranking['files']:,} text files, {ranking['lines']:,} lines, {ranking['words']:,} words.",
        f"Left out: {_left_out(skipped)}.",
        "",
        "## Kinds of files",
        "",
        *_table(
            ("suffix", "files", "lines", "words"),
            (
                (
                    code(kind["suffix"]) if kind["suffix"] else "(none)",
                    _n(kind["files"]),
                    _n(kind["lines"]),
                    _n(kind["words"]),
                )
                for kind in ranking["kinds"]
            ),
        ),
        "",
        "## The longest files",
        "",
        *_files(texts[position] for position in ranking["longest"]),
        "",
        "## The most telling terms",
        "",
        "The term that sets a file apart most: frequent in it, rare in the others (TF-IDF).",
        "",
        *_table(
            ("score", "term", "file"),
            (
                (f"{texts[position].terms[0][1]:.3f}", code(texts[position].terms[0][0]), code(texts[position].path))
                for position in ranking["telling"]
            ),
        ),
        "",
        "## Every file",
        "",
        *_files(texts[:ROWS_MAX]),
    ]
    if len(texts) > ROWS_MAX:
        lines += ["", f"{len(texts) - ROWS_MAX:,} more files were counted and are not listed."]
    return "\n".join(lines) + "\n"


def code(text: str) -> str:
    """Return ``text`` as a code span that shows it as it is, also in a table, whatever characters it holds."""
    text = _UNPRINTABLE.sub("\ufffd", text).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _files(texts: Iterable[Digested]) -> list[str]:
    return _table(
        ("file", "lines", "words", "most telling terms"),
        (
            (
                code(text.path),
                _n(text.measured["lines"]),
                _n(text.measured["words"]),
                ", ".join(code(term) for term, _ in text.terms),
            )
            for text in texts
        ),
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(columns)} |",
        f"|{' --- |' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _left_out(skipped: Mapping[str, int]) -> str:
    parts = [f"{_n(skipped[reason])} {name}" for reason, name in SKIPPED_NAMES.items() if skipped.get(reason)]
    return ", ".join(parts) or "nothing"


def _n(number: int) -> str:
    return f"{number:,}"
