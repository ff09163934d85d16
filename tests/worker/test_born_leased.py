"""Runs that are born under the lease of a worker of the process that starts them, and when they may not be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import tailrace
from tailrace.model.run import RunState
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.leases import Leases
from tailrace.store.runs import RunRequest, Runs
from tailrace.telemetry import JobStarted, RunCreated
from tailrace.write.starter import Host
from tests.write_support import AGENT, NOW_MS, Running, claim, fetch, running, types, until, value, verified_log

MakeSettings = Callable[..., Settings]


async def nothing(run: tailrace.Run) -> None: ...


def host_of(app: Running) -> Host:
    host = app.services.orchestrator.starter.host
    assert host is not None
    return host


async def until_it_takes(app: Running) -> Host:
    """Wait until the worker has found the queue empty, and give the place back that was asked for."""
    host = host_of(app)

    async def takes() -> Host | None:
        if not host.reserve(AGENT):
            return None
        host.settle(["none"], [], 0.0)
        return host

    return await until(takes)


async def test_a_run_is_born_with_the_lease_of_its_own_worker(database: Database, settings: MakeSettings) -> None:
    """It is held from the moment it is there; whoever started it is told that it is queued, as ever."""
    gate = asyncio.Event()

    async def waiting(_: tailrace.Run) -> None:
        await gate.wait()

    async with running(settings(), waiting) as app:
        host = await until_it_takes(app)
        run, is_new = await app.services.orchestrator.start(AGENT, {"a": 1})
        assert (run.state, run.started_at, run.last_seq, is_new) == (RunState.QUEUED, None, 1, True)
        (row,) = await fetch(
            database,
            "select state, epoch, lease_owner, takeovers, started_at = created_at, lease_until > now()"
            " from tailrace.runs",
        )
        assert tuple(row) == ("started", 1, host.worker, 0, True, True)
        gate.set()
        assert (await app.ended(run.id)).state is RunState.FINISHED
        told = [type(happening) for happening in app.told.all if isinstance(happening, RunCreated | JobStarted)]
        assert told == [RunCreated, JobStarted]
        assert app.told.of(JobStarted)[0].resumed is False
    assert types(await verified_log(database, run.id)) == ["RunStarted", "RunFinished"]


async def test_a_start_does_not_overtake_those_that_wait(database: Database, settings: MakeSettings) -> None:
    """With no place free it is queued, and while anybody waits nobody is born with a lease."""
    gate = asyncio.Event()
    begun: list[str] = []

    async def one_at_a_time(run: tailrace.Run) -> None:
        begun.append(run.id)
        await gate.wait()

    async with running(settings(worker_concurrency=1), one_at_a_time) as app:
        await until_it_takes(app)
        ids = [await app.start(run_id=f"r{number}") for number in range(4)]
        assert await value(database, "select count(*) from tailrace.runs where state = 'queued'") == 3
        gate.set()
        ids.append(await app.start(run_id="r4"))
        for run_id in ids:
            await app.ended(run_id)
    assert begun == ids


async def test_what_was_born_without_an_answer_is_given_back(
    database: Database, settings: MakeSettings, runs: Runs
) -> None:
    """It begins at once, under another epoch, and counts no death; a run that was not born is no run."""
    async with running(settings(lease_seconds=3600), nothing) as app:
        host = await until_it_takes(app)
        assert host.reserve(AGENT)
        assert host.reserve(AGENT)
        await runs.create_many(
            [RunRequest("lost", AGENT, None, NOW_MS)], leased={"lost"}, worker=host.worker, lease_seconds=3600
        )
        host.settle(["lost", "unborn"], None, asyncio.get_running_loop().time())
        assert (await app.ended("lost")).state is RunState.FINISHED
        assert app.told.of(JobStarted, run_id="lost")[0].epoch == 2
        await until_it_takes(app)
    assert await value(database, "select takeovers from tailrace.runs") == 0
    assert await value(database, "select count(*) from tailrace.runs") == 1


async def test_what_is_born_while_the_worker_stops_is_given_back(
    database: Database, settings: MakeSettings, runs: Runs, leases: Leases
) -> None:
    """Another worker takes it at once, without waiting for the lease."""
    async with running(settings(lease_seconds=3600), nothing) as app:
        host = await until_it_takes(app)
        assert host.reserve(AGENT)
        request = RunRequest("late", AGENT, None, NOW_MS)

        async def answered_late() -> None:
            await until(stopping)
            await runs.create_many([request], leased={"late"}, worker=host.worker, lease_seconds=3600)
            host.settle(["late"], None, asyncio.get_running_loop().time())

        async def stopping() -> bool | None:
            # A worker that stops keeps no place for anybody.
            if host.reserve(AGENT):
                host.settle(["none"], [], 0.0)
                return None
            return True

        late = asyncio.ensure_future(answered_late())
    await late
    (lease,) = await claim(leases)
    assert (lease.run_id, lease.takeovers) == ("late", 0)
