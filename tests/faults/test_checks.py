"""The campaign's checks: each sees what it is there for, and is silent on a log that is whole."""

from __future__ import annotations

from typing import Any

import pytest

from faults.checks import (
    Acknowledged,
    Kind,
    fence_violations,
    log_violations,
    stream_violations,
    token_violations,
)

TYPES = ("RunStarted", "NodeStarted", "NodeFinished", "RunFinished")


def whole_log() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run that has finished and is published, with its events."""
    names = (None, "Step-0", "Step-0", None)
    events = [
        {"run_id": "r", "seq": seq, "type": kind, "name": name, "epoch": epoch, "published_at": 1}
        for seq, (kind, name, epoch) in enumerate(zip(TYPES, names, (0, 1, 2, 2), strict=True), 1)
    ]
    return {"id": "r", "state": "finished", "last_seq": 4, "next_seq": 5}, events


def kinds(run: dict[str, Any], events: list[dict[str, Any]]) -> set[Kind]:
    return {violation.kind for violation in log_violations(run, events)}


def test_a_whole_log_has_no_violation() -> None:
    assert log_violations(*whole_log()) == []


@pytest.mark.parametrize(
    ("of_run", "of_event", "expected"),
    [
        ({"last_seq": 5}, {}, "log"),
        ({"state": "failed"}, {}, "log"),
        ({"next_seq": 4}, {}, "log"),
        ({}, {"published_at": None}, "log"),
        ({}, {"seq": 4}, "log"),
        ({}, {"epoch": 3}, "fencing"),
        ({}, {"type": "RunFailed"}, "log"),
        ({}, {"type": "NodeFinished", "name": "Step-0"}, "duplicated"),
    ],
)
def test_each_thing_that_is_wrong_is_seen(of_run: dict[str, Any], of_event: dict[str, Any], expected: Kind) -> None:
    """The changes are made to the run's row and to the event with seq 2."""
    run, events = whole_log()
    run |= of_run
    events[1] |= of_event
    assert expected in kinds(run, events)


def test_a_run_without_an_end_and_one_that_is_not_published_are_stuck() -> None:
    run, events = whole_log()
    assert "stuck" in kinds(run | {"last_seq": 3, "state": "started", "next_seq": 4}, events[:3])
    events[-1]["published_at"] = None
    assert kinds(run | {"next_seq": 4}, events) == {"stuck"}


@pytest.mark.parametrize(
    ("seqs", "expected"),
    [
        ([1, 2, 3], set()),
        ([1, 3], {"lost"}),
        ([1, 2, 2, 3], {"duplicated"}),
        ([1, 3, 2], {"out-of-order"}),
        ([1, 2, 3, 4], {"log"}),
        ([], {"lost"}),
    ],
)
def test_a_client_receives_one_to_last_in_order(seqs: list[int], expected: set[Kind]) -> None:
    assert {violation.kind for violation in stream_violations("r", "client", 3, seqs)} == expected


def test_an_acknowledged_event_stands_in_the_log_once() -> None:
    acknowledged = [Acknowledged("r", 1, "a"), Acknowledged("r", 1, "b")]
    assert token_violations(acknowledged, {"r": ["a", "b", "not acknowledged"]}) == []
    assert [violation.kind for violation in token_violations(acknowledged, {"r": ["a"]})] == ["lost"]
    assert [violation.kind for violation in token_violations(acknowledged, {"r": ["a", "a", "b"]})] == ["duplicated"]


def test_nothing_of_an_earlier_epoch_stands_behind_a_take_over() -> None:
    heads = {("r", 1): 1, ("r", 2): 5}
    assert fence_violations(heads, [{"run_id": "r", "seq": 5, "epoch": 1}, {"run_id": "r", "seq": 6, "epoch": 2}]) == []
    assert len(fence_violations(heads, [{"run_id": "r", "seq": 6, "epoch": 1}])) == 1
