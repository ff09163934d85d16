"""Leases that a worker was given without learning of it: given back, and nobody's death."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import tailrace
from tailrace.errors import DatabaseUnavailable
from tailrace.model.run import Lease, RunState
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.leases import Leases
from tailrace.store.runs import Runs
from tailrace.worker.attendance import Attendance
from tailrace.worker.places import UNKNOWN_SECONDS, Places
from tests.write_support import AGENT, claim, queued, running, started, value

MakeSettings = Callable[..., Settings]
CLAIM, HELD = Leases.claim, Leases.held


async def nothing(run: tailrace.Run) -> None: ...


def lost_answer() -> DatabaseUnavailable:
    error = DatabaseUnavailable("the answer was lost")
    error.sent = True
    return error


@pytest.mark.parametrize("late", [False, True], ids=["executed-at-once", "executed-later"])
async def test_a_claim_whose_answer_is_lost_counts_no_death(
    database: Database, settings: MakeSettings, runs: Runs, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """The run begins long before the lease is over, also if Postgres executes the claim after the worker has looked."""
    looked, lost = asyncio.Event(), asyncio.Event()

    async def losing(self: Leases, **given: Any) -> list[Lease]:
        if lost.is_set():
            return await CLAIM(self, **given)
        lost.set()
        if late:
            executing.append(asyncio.create_task(execute_later(self, given)))
        else:
            await CLAIM(self, **given)
        raise lost_answer()

    async def execute_later(leases: Leases, given: dict[str, Any]) -> None:
        await looked.wait()
        await queued(runs, run_id="r")
        await CLAIM(leases, **given)

    async def held(self: Leases, worker: str) -> dict[str, int]:
        found = await HELD(self, worker)
        looked.set()
        return found

    executing: list[asyncio.Task[None]] = []
    monkeypatch.setattr(Leases, "claim", losing)
    monkeypatch.setattr(Leases, "held", held)
    if not late:
        await queued(runs, run_id="r")
    async with running(settings(lease_seconds=3600), nothing) as app:
        await lost.wait()
        await asyncio.gather(*executing)
        assert (await app.ended("r")).state is RunState.FINISHED
    assert await value(database, "select takeovers from tailrace.runs") == 0


async def test_what_is_claimed_while_the_worker_stops_is_given_back(
    settings: MakeSettings, runs: Runs, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker takes it at once, without waiting for the lease."""
    claimed, answered = asyncio.Event(), asyncio.Event()

    async def slow(self: Leases, **given: Any) -> list[Lease]:
        found = await CLAIM(self, **given)
        if found:
            claimed.set()
            await answered.wait()
        return found

    monkeypatch.setattr(Leases, "claim", slow)
    await queued(runs, run_id="r")
    async with running(settings(lease_seconds=3600), nothing):
        await claimed.wait()
        asyncio.get_running_loop().call_later(0.1, answered.set)
    monkeypatch.undo()
    (lease,) = await claim(leases)
    assert (lease.run_id, lease.takeovers) == ("r", 0)


async def test_an_orphan_that_is_claimed_while_the_worker_stops_is_given_back(
    settings: MakeSettings, runs: Runs, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody begins to end it then, and the next worker takes it at once."""
    claimed, answered = asyncio.Event(), asyncio.Event()

    async def slow(self: Leases, *, worker: str, lease_seconds: float, **_: object) -> list[Lease]:
        found = await CLAIM(self, worker=worker, agents=[AGENT], limit=1, lease_seconds=lease_seconds)
        claimed.set()
        await answered.wait()
        return found

    monkeypatch.setattr(Leases, "claim_orphans", slow)
    monkeypatch.setattr(Attendance, "witnessed_seconds", lambda _: 1e9)
    await queued(runs, run_id="r")
    async with running(settings(lease_seconds=3600), {"other": nothing}):
        await claimed.wait()
        asyncio.get_running_loop().call_later(0.1, answered.set)
    (lease,) = await claim(leases)
    assert (lease.run_id, lease.takeovers) == ("r", 0)


async def test_a_lease_whose_answer_is_on_its_way_is_left_alone(runs: Runs, leases: Leases) -> None:
    """Only what is still unknown when it is looked for again is given back, and never what others hold."""
    # However late it looks again, the lost statement's lease may still come.
    lease = await started(runs, leases)
    other = await started(runs, leases, worker="elsewhere")
    places = Places("w1", leases, concurrency=3, lease_seconds=3600)
    await places.give_back_once({})
    assert await leases.held("w1") == {lease.run_id: lease.epoch}
    places.lose(2)
    assert places.room(0) == 1
    await places.give_back_once({})
    assert places.room(0) == 2
    assert await leases.held("w1") == {lease.run_id: lease.epoch}
    await asyncio.sleep(UNKNOWN_SECONDS)
    await places.give_back_once({})
    assert await leases.held("w1") == {}
    assert await leases.held("elsewhere") == {other.run_id: other.epoch}
    assert places.room(0) == 3
    assert places.looking  # for Postgres may still execute what was lost


async def test_who_has_looked_for_as_long_as_a_lease_looks_no_more(leases: Leases) -> None:
    """Whatever Postgres executes only then gives a lease that this worker finds as anybody's: run out, at its end."""
    places = Places("w1", leases, concurrency=3, lease_seconds=0)
    places.lose(1)
    assert places.looking
    assert places.room(0) == 2
    await places.give_back_once({})
    await asyncio.sleep(0.001)  # A clock need not have moved between two looks.
    await places.give_back_once({})
    assert places.room(0) == 3
    assert not places.looking
