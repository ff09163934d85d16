"""The campaign's schedule and its verdict: what comes next, and what a slow machine may be blamed for."""

from __future__ import annotations

import random
from typing import Any

import pytest

from faults.report import verdict
from faults.schedule import TRIES_MAX, Schedule

NAMES = ["a", "b", "c", "d"]


@pytest.mark.parametrize("seed", range(20))
def test_each_class_comes_once_before_any_comes_again(seed: int) -> None:
    """Also the second time round, when all have been proved."""
    schedule = Schedule(NAMES, random.Random(seed))  # noqa: S311 - chooses, guards nothing
    for _ in range(3):
        found = []
        for _ in NAMES:
            name = schedule.wanted(over=False)
            assert name is not None
            found.append(name)
            schedule.done(name, proved=True)
        assert sorted(found) == NAMES
    assert schedule.wanted(over=True) is None


@pytest.mark.parametrize("over", [False, True])
def test_what_did_not_bite_is_tried_before_anything_comes_again(over: bool) -> None:
    """A bounded number of times; only then is it not proved, and all else goes on."""
    schedule = Schedule(NAMES, random.Random(1))  # noqa: S311 - as above
    for name in NAMES:
        schedule.done(name, proved=name != "c")
    for _ in range(TRIES_MAX - 1):
        assert (schedule.unproved, schedule.unreached) == ([], ["c"])
        assert schedule.wanted(over=over) == "c"
        schedule.done("c", proved=False)
    assert (schedule.unproved, schedule.unreached) == (["c"], [])
    assert (schedule.wanted(over=over) is None) is over


def test_when_time_runs_out_in_the_first_pass_the_rest_is_unreached_and_not_unproved() -> None:
    """And still wanted, for as long as a grace is given."""
    schedule = Schedule(NAMES, random.Random(1))  # noqa: S311 - as above
    schedule.done("a", proved=True)
    schedule.done("b", proved=False)
    assert (schedule.unproved, schedule.unreached) == ([], ["b", "c", "d"])
    assert schedule.wanted(over=True) in ("c", "d")


@pytest.mark.parametrize(
    ("lost", "unproved", "unreached", "word"),
    [(0, [], [], "passed"), (0, [], ["b"], "passed"), (0, ["b"], [], "FAILED"), (1, [], [], "FAILED")],
)
def test_the_verdict_fails_for_violations_and_for_what_had_every_chance(
    lost: int, unproved: list[str], unreached: list[str], word: str
) -> None:
    """Not for what there was no time for."""
    found: dict[str, Any] = {
        "total": {"violations": {"lost": lost, "stuck": 0}},
        "classes": [{"proved": 0}, {"proved": 2}],
        "unproved": unproved,
        "unreached": unreached,
        "skipped": {},
    }
    assert verdict(found).startswith(f"{word}: {lost} violations; 1 of {1 + len(unproved) + len(unreached)} classes")
