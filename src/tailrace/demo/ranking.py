"""Which files and terms are worth showing.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple, TypedDict

from tailrace.demo.terms import Measure

# What a person reads of a list before they search in it instead.
LONGEST_MAX = 20
TELLING_MAX = 25
KINDS_MAX = 12


class Digested(NamedTuple):
    """One text file: where it is (relative, with ``/``), what was counted in it, and its telling terms."""

    path: str
    measured: Measure
    terms: list[tuple[str, float]]


class Kind(TypedDict):
    """All files with one suffix."""

    suffix: str
    files: int
    lines: int
    words: int


class Ranking(TypedDict):
    """What the report shows of the whole folder; the lists hold positions in the list that was ranked."""

    files: int
    lines: int
    words: int
    kinds: list[Kind]
    longest: list[int]
    telling: list[int]


def rank(texts: Sequence[Digested]) -> Ranking:
    """Return the totals, the suffixes with the most lines, the longest files, and those with the strongest terms.

    Ties are decided by the path, so one folder has one ranking.
    """
    positions = range(len(texts))
    longest = sorted(positions, key=lambda i: (-texts[i].measured["lines"], texts[i].path))
    with_terms = [i for i in positions if texts[i].terms]
    telling = sorted(with_terms, key=lambda i: (-texts[i].terms[0][1], texts[i].path))
    return {
        "files": len(texts),
        "lines": sum(text.measured["lines"] for text in texts),
        "words": sum(text.measured["words"] for text in texts),
        "kinds": _kinds(texts),
        "longest": longest[:LONGEST_MAX],
        "telling": telling[:TELLING_MAX],
    }


def _kinds(texts: Sequence[Digested]) -> list[Kind]:
    kinds: dict[str, Kind] = {}
    for text in texts:
        suffix = PurePosixPath(text.path).suffix.lower()
        kind = kinds.setdefault(suffix, {"suffix": suffix, "files": 0, "lines": 0, "words": 0})
        kind["files"] += 1
        kind["lines"] += text.measured["lines"]
        kind["words"] += text.measured["words"]
    return sorted(kinds.values(), key=lambda kind: (-kind["lines"], kind["suffix"]))[:KINDS_MAX]
