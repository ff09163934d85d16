"""Totals, order and bounds of what the report shows."""

from __future__ import annotations

from tailrace.demo.ranking import KINDS_MAX, LONGEST_MAX, TELLING_MAX, Digested, rank


def text(path: str, lines: int, score: float | None = 1.0) -> Digested:
    return Digested(
        path, {"lines": lines, "words": lines * 2, "terms": ""}, [("t", score)] if score is not None else []
    )


def test_files_are_ranked_by_length_and_by_their_strongest_term() -> None:
    """Ties are decided by the path; a file without a term is not shown for its terms."""
    texts = [text("b.py", 5, 2.0), text("a.py", 5, 3.0), text("c.TXT", 9, None), text("LICENSE", 1, 3.0)]
    assert rank(texts) == {
        "files": 4,
        "lines": 20,
        "words": 40,
        "kinds": [
            {"suffix": ".py", "files": 2, "lines": 10, "words": 20},
            {"suffix": ".txt", "files": 1, "lines": 9, "words": 18},
            {"suffix": "", "files": 1, "lines": 1, "words": 2},
        ],
        "longest": [2, 1, 0, 3],
        "telling": [3, 1, 0],
    }


def test_the_lists_are_bounded() -> None:
    """A large folder does not make a long summary."""
    ranking = rank([text(f"f.{number:03}", number) for number in range(200)])
    assert [len(ranking["kinds"]), len(ranking["longest"]), len(ranking["telling"])] == [
        KINDS_MAX, LONGEST_MAX, TELLING_MAX,
    ]  # fmt: skip
    assert ranking["files"] == 200
    assert ranking["longest"][0] == 199
