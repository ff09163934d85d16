"""What is handed over and not yet marked: pure, so each rule is tried by itself."""

from __future__ import annotations

import pytest

from tailrace.model.event import StoredEvent
from tailrace.store.outbox import Unpublished
from tailrace.write import owed as module
from tailrace.write.owed import Due, Owed


def events(run_id: str, first_seq: int, count: int = 1, data: str | None = None) -> Unpublished:
    made = [StoredEvent(run_id, first_seq + n, 1, "Custom", "n", None, data) for n in range(count)]
    return Unpublished(run_id, first_seq, made, None)


def lines(due: Due) -> dict[str, tuple[int, int]]:
    assert len({run.run_id for run in due.batch}) == len(due.batch)
    return {run.run_id: (run.next_seq, run.last_seq) for run in due.batch}


def test_several_hand_overs_of_a_run_are_marked_as_one() -> None:
    """Also with what is handed over in the pass; each hand-over keeps its time, and everything is taken once."""
    owed = Owed()
    owed.add_ahead([events("a", 5, 2), events("b", 9)], 1.0)
    owed.add_ahead([events("a", 7)], 2.0)
    owed.add_others([events("a", 8, 3), events("c", 1)])
    assert owed.run_ids == {"a", "b", "c"}
    due = owed.take()
    assert lines(due) == {"a": (5, 10), "b": (9, 9), "c": (1, 1)}
    assert [event.seq for event in due.batch[0].events] == [5, 6, 7, 8, 9, 10]
    assert [(at_ms, [run.next_seq for run in runs]) for runs, at_ms in due.ahead] == [(1.0, [5, 9]), (2.0, [7])]
    assert [run.next_seq for run in due.others] == [8, 1]
    assert due.apart == set()
    assert not owed
    assert owed.take() == Due()


def test_what_does_not_follow_is_neither_marked_nor_handed_over() -> None:
    """A mark over a gap would vouch for events that nobody has handed over."""
    owed = Owed()
    owed.add_ahead([events("a", 5)], 1.0)
    owed.add_others([events("a", 7), events("b", 2), events("b", 4), events("c", 1)])
    due = owed.take()
    assert lines(due) == {"a": (5, 5), "b": (2, 2), "c": (1, 1)}
    assert [(run.run_id, run.next_seq) for run in due.others] == [("b", 2), ("c", 1)]
    assert due.apart == {"a", "b"}


@pytest.mark.parametrize("bound", ["OWED_MAX_EVENTS", "OWED_MAX_BYTES"])
def test_what_is_owed_is_bounded(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By events and by bytes; a pass makes room again."""
    monkeypatch.setattr(module, bound, 3)
    owed = Owed()
    owed.add_ahead([events("a", 1, 2, "1")], 1.0)
    full = [owed.is_full]
    owed.add_others([events("b", 1, 1, "1")])
    full.append(owed.is_full)
    owed.take()
    owed.add_ahead([events("a", 3, 2, "1")], 2.0)
    full.append(owed.is_full)
    assert full == [False, True, False]


def test_what_waits_for_its_marks_is_urgent() -> None:
    """What the bus has already is not."""
    owed = Owed()
    owed.add_ahead([events("a", 1)], 1.0)
    urgent = [owed.is_urgent]
    owed.add_others([events("b", 1)])
    urgent.append(owed.is_urgent)
    assert urgent == [False, True]
