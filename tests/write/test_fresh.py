"""The short memory of what was committed: pure, so each rule is tried by itself."""

from __future__ import annotations

import pytest

from tailrace.model import draft
from tailrace.store.events import RunAppend
from tailrace.write import fresh as module
from tailrace.write.fresh import Fresh


def add(run_id: str, first_seq: int, count: int = 1) -> RunAppend:
    return RunAppend(run_id, 1, first_seq, [draft.custom("n", {"k": "v"}, 1, max_bytes=100)] * count)


def taken(fresh: Fresh, *, runs_max: int = 100, run_events_max: int = 200) -> dict[str, list[int]]:
    batch = fresh.take(runs_max=runs_max, run_events_max=run_events_max, bytes_max=2**20)
    assert all(run.next_seq == run.events[0].seq for run in batch)
    return {run.run_id: [event.seq for event in run.events] for run in batch}


def test_events_that_follow_each_other_come_out_together_and_once() -> None:
    """Run by run, the run that waits longest first."""
    fresh = Fresh()
    assert all(fresh.add(each) for each in (add("a", 5), add("b", 2, 3), add("a", 6, 2)))
    assert taken(fresh) == {"a": [5, 6, 7], "b": [2, 3, 4]}
    assert not fresh
    assert taken(fresh) == {}


def test_what_leaves_a_gap_has_no_place() -> None:
    """The publisher reads that run from the database; what is here already stays in order."""
    fresh = Fresh()
    assert fresh.add(add("a", 5))
    assert not fresh.add(add("a", 7))
    assert taken(fresh) == {"a": [5]}


def test_a_flooding_run_gives_a_bounded_part_and_goes_behind_the_others() -> None:
    """So that it does not hold them up."""
    fresh = Fresh()
    fresh.add(add("flood", 1, 25))
    fresh.add(add("quiet", 9))
    assert taken(fresh, run_events_max=10) == {"flood": list(range(1, 11)), "quiet": [9]}
    fresh.add(add("quiet", 10))
    assert list(taken(fresh, run_events_max=10, runs_max=1)) == ["flood"]
    assert taken(fresh) == {"quiet": [10], "flood": [21, 22, 23, 24, 25]}


def test_what_was_published_from_the_database_is_dropped_whenever_its_answer_comes() -> None:
    """Before it or after it."""
    fresh = Fresh()
    fresh.add(add("early", 3, 4))
    fresh.was_read("early", 4)
    fresh.was_read("late", 8)
    assert fresh.add(add("late", 6, 2))
    assert fresh.add(add("late", 8, 3))
    assert taken(fresh) == {"early": [5, 6], "late": [9, 10]}
    fresh.was_read("early", 6)
    assert fresh.add(add("early", 7))
    assert taken(fresh) == {"early": [7]}


def test_it_holds_a_bounded_number_of_events_bytes_and_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past it the database is asked; room that was made is used again."""
    monkeypatch.setattr(module, "FRESH_MAX_EVENTS", 3)
    fresh = Fresh()
    assert fresh.add(add("a", 1, 3))
    assert not fresh.add(add("b", 1))
    taken(fresh)
    assert fresh.add(add("b", 1))
    monkeypatch.setattr(module, "FRESH_MAX_BYTES", 1)
    assert not fresh.add(add("c", 1))
    monkeypatch.setattr(module, "READ_MAX_RUNS", 2)
    for run_id in ("x", "y", "z"):
        fresh.was_read(run_id, 5)
    taken(fresh)
    monkeypatch.setattr(module, "FRESH_MAX_BYTES", 1000)
    assert fresh.add(add("x", 5))
    assert fresh.add(add("z", 5))
    assert taken(fresh) == {"x": [5]}
