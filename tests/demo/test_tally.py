"""The count behind the demo's last line can fail."""

from __future__ import annotations

from tailrace.demo.tally import Tally


def tally(*seqs: int) -> Tally:
    counted = Tally()
    for seq in seqs:
        counted.add(seq)
    return counted


def test_a_whole_stream_has_lost_nothing_and_nothing_twice() -> None:
    counted = tally(1, 2, 3)
    assert (counted.seen, counted.lost(3), counted.twice) == (3, 0, 0)


def test_a_gap_is_lost_and_a_repetition_is_twice() -> None:
    """They are counted by seq, so one does not make up for the other."""
    counted = tally(1, 2, 2, 2, 5)
    assert (counted.seen, counted.lost(5), counted.twice) == (5, 2, 1)


def test_a_missing_tail_is_lost() -> None:
    """The run's last seq comes from elsewhere: a stream that ends early does not look whole."""
    assert tally(1, 2).lost(4) == 2
    assert tally().lost(1) == 1
