"""What is counted in a text, with the numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from tailrace.demo.terms import Measure, document_frequencies, measure, telling_terms, term_counts

APPLE = "apple apple banana\nApple cherry\n"
BANANA = "banana\nbanana\n\nx y 42"


def measured(text: str) -> Measure:
    return measure(text, terms_max_bytes=2048)


def test_lines_words_and_terms_are_counted() -> None:
    """Case does not count, terms have three characters at least, and a last line needs no line feed."""
    assert measured(APPLE) == {"lines": 2, "words": 5, "terms": "apple:3 banana:1 cherry:1"}
    assert measured(BANANA) == {"lines": 4, "words": 5, "terms": "banana:2"}
    assert measured("") == {"lines": 0, "words": 0, "terms": ""}
    assert measured("\n") == {"lines": 1, "words": 0, "terms": ""}


def test_identifiers_are_terms_and_encoded_data_is_not() -> None:
    """Underscores belong to a name; digits alone and endless runs of letters are nothing that a person would say."""
    text = f"__init__ snake_case utf8 éclair 12345 1abc_d {'Q' * 41}"
    assert [term for term, _ in term_counts(measured(text))] == ["__init__", "abc_d", "snake_case", "utf8", "éclair"]


def test_the_rarest_terms_give_way_when_there_is_no_room() -> None:
    """The bound holds to the byte, and what is kept are the most frequent terms, then the first by name."""
    assert measure(APPLE, terms_max_bytes=15)["terms"] == "apple:3"
    assert measure(APPLE, terms_max_bytes=16)["terms"] == "apple:3 banana:1"
    assert measure("ééé ééé abc", terms_max_bytes=8)["terms"] == "ééé:2"
    assert measure("ééé ééé abc", terms_max_bytes=7)["terms"] == ""


def test_the_score_is_tf_idf() -> None:
    """(1 + ln count) * ln(1 + texts / texts with the term), the highest first, ties by name."""
    texts = [measured(APPLE), measured(BANANA)]
    frequencies = document_frequencies(texts)
    assert frequencies == {"apple": 1, "banana": 2, "cherry": 1}
    assert telling_terms(texts[0], frequencies, texts=2, limit=5) == [
        ("apple", round((1 + math.log(3)) * math.log(3), 3)),
        ("cherry", round(math.log(3), 3)),
        ("banana", round(math.log(2), 3)),
    ]
    assert telling_terms(texts[0], frequencies, texts=2, limit=1) == [("apple", 2.306)]
    assert telling_terms(texts[1], frequencies, texts=2, limit=5) == [("banana", 1.174)]


def test_a_term_of_every_text_tells_less_than_one_of_a_single_text() -> None:
    """That is what the inverse document frequency is for."""
    texts = [measured(f"common common special{number}") for number in range(100)]
    best = telling_terms(texts[7], document_frequencies(texts), texts=100, limit=2)
    assert [term for term, _ in best] == ["special7", "common"]
    assert best[0][1] == pytest.approx(math.log(101), abs=0.001)
