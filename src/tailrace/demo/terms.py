"""What is counted in one text, and which of its terms tell it from the others (TF-IDF).  Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypedDict

# A letter, then at least two letters, digits or underscores: words and identifiers (``__init__`` too), no numbers.
_TERM = re.compile(r"_*[^\W\d_]\w{2,}")
# Longer runs of letters are encoded data, not words.
TERM_MAX_CHARS = 40
SCORE_DIGITS = 3


class Measure(TypedDict):
    """What was counted in one file.

    ``terms`` holds the most frequent terms with their counts, as ``"name:7 other:3"``.  It is one string, for the
    result of a step is checked value by value on the event loop, and a large folder has a million terms.
    """

    lines: int
    words: int
    terms: str


def measure(text: str, *, terms_max_bytes: int) -> Measure:
    """Count the lines, words and terms of ``text``.

    :param terms_max_bytes: most that ``terms`` may take as UTF-8; the rarest terms of a long text are left out.
    """
    lines = text.count("\n") + (1 if text and not text.endswith("\n") else 0)
    counts = Counter(_TERM.findall(text.lower()))
    kept, size = [], -1  # There is one separator less than there are entries.
    for term, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if len(term) > TERM_MAX_CHARS:
            continue
        entry = f"{term}:{count}"
        size += len(entry.encode()) + 1
        if size > terms_max_bytes:
            break
        kept.append(entry)
    return {"lines": lines, "words": len(text.split()), "terms": " ".join(kept)}


def term_counts(measured: Measure) -> list[tuple[str, int]]:
    """Return the terms that were kept of a text, the most frequent first."""
    entries = (entry.rpartition(":") for entry in measured["terms"].split())
    return [(term, int(count)) for term, _, count in entries]


def document_frequencies(measures: Iterable[Measure]) -> Counter[str]:
    """Return in how many texts each term stands."""
    return Counter(term for measured in measures for term, _ in term_counts(measured))


def telling_terms(measured: Measure, frequencies: Counter[str], *, texts: int, limit: int) -> list[tuple[str, float]]:
    """Return the terms that tell this text from the others, with their scores, the highest first.

    The score of a term is ``(1 + ln count) * ln(1 + texts / texts with the term)``: sublinear term frequency times
    inverse document frequency (Manning, Raghavan, Schütze: Introduction to Information Retrieval, 6.2 and 6.4.1), with
    one added, so that a folder with a single file has terms too.

    :param texts: how many texts ``frequencies`` was counted over.
    """
    scored = [
        (term, round((1 + math.log(count)) * math.log1p(texts / frequencies[term]), SCORE_DIGITS))
        for term, count in term_counts(measured)
    ]
    scored.sort(key=lambda item: (-item[1], item[0]))
    return scored[:limit]


def as_scores(kept: Iterable[Any]) -> list[tuple[str, float]]:
    """Return the scores that a kept step gave back, in which JSON has made lists of the pairs."""
    return [(term, score) for term, score in kept]
