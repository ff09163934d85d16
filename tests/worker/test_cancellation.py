"""Cancelling runs: whatever they are doing, and whoever says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

import tailrace
from tailrace.errors import BusUnavailable, RunTerminated
from tailrace.http.services import Services
from tailrace.model.run import RunState
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.doorbell import Doorbell
from tailrace.store.leases import Leases
from tailrace.store.runs import Runs
from tailrace.telemetry import JobEnded, JobStarted, Telemetry
from tailrace.worker import execution, worker
from tailrace.write.orchestrate import Orchestrator
from tests.write_support import (
    AGENT,
    NOW_MS,
    Told,
    claim,
    execute,
    expire,
    queued,
    running,
    started,
    types,
    until,
    until_ended,
    verified_log,
)

MakeSettings = Callable[..., Settings]


class Waiting:
    """An agent that waits in a node until it is cancelled."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.saw: list[bool] = []

    async def __call__(self, run: tailrace.Run) -> None:
        async with run.node("Wait"):
            self.entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.saw.append(run.cancelled)


async def test_a_queued_run_is_cancelled_without_a_worker(database: Database, settings: MakeSettings) -> None:
    """It ends in the call itself, and the outbox hears of it."""
    async with running(settings(outbox_poll_ms=60_000), {}, ("api", "outbox")) as app:
        run_id = await app.start()
        await app.services.orchestrator.cancel(run_id)
        run = await app.services.runs.get(run_id)
        assert (run.state, run.last_seq, run.started_at) == (RunState.CANCELLED, 2, None)
        assert run.finished_at is not None
        with pytest.raises(RunTerminated):
            await app.services.orchestrator.cancel(run_id)
        await app.ended(run_id)
    assert types(await verified_log(database, run_id)) == ["RunStarted", "RunCancelled"]


async def test_a_running_agent_is_cancelled_in_the_middle_of_a_node(database: Database, settings: MakeSettings) -> None:
    """It sees CancelledError and ``run.cancelled``; the node is left without its NodeFinished."""
    agent = Waiting()
    async with running(settings(), agent) as app:
        run_id = await app.start()
        await agent.entered.wait()
        await app.services.orchestrator.cancel(run_id)
        run = await app.ended(run_id)
        assert run.state == RunState.CANCELLED
        assert (await app.told.until(JobEnded, run_id=run_id)).state == "cancelled"
        with pytest.raises(RunTerminated):
            await app.services.orchestrator.cancel(run_id)
    assert agent.saw == [True]
    assert types(await verified_log(database, run_id)) == ["RunStarted", "NodeStarted", "RunCancelled"]


@pytest.mark.parametrize("answer", ["return", "raise", "emit", "again"])
async def test_an_agent_that_does_not_take_the_cancellation_is_cancelled_all_the_same(
    database: Database, settings: MakeSettings, answer: str
) -> None:
    """It returns, raises something else, says a last word, or swallows it once and goes on waiting."""
    entered = asyncio.Event()

    async def agent(run: tailrace.Run) -> str:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if answer == "raise":
                raise ValueError("not now") from None
            if answer == "emit":
                await run.emit("LastWord", {"cancelled": run.cancelled})
            if answer == "again":
                await asyncio.Event().wait()
        return "finished all the same"

    async with running(settings(), agent) as app:
        run_id = await app.start()
        await entered.wait()
        await app.services.orchestrator.cancel(run_id)
        run = await app.ended(run_id)
    assert (run.state, run.output, run.error_class) == (RunState.CANCELLED, None, None)
    said = ["Custom"] if answer == "emit" else []
    assert types(await verified_log(database, run_id)) == ["RunStarted", *said, "RunCancelled"]


async def test_an_agent_that_never_listens_is_left_behind(
    database: Database, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its grace the run ends without it, and what it emits later is refused."""
    monkeypatch.setattr(execution, "CANCEL_GRACE_SECONDS", 0.05)
    entered, enough, told = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def agent(run: tailrace.Run) -> None:
        entered.set()
        while not enough.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await enough.wait()
        try:
            await run.trace("too-late")
        except tailrace.RunTerminated:
            told.set()

    async with running(settings(), agent) as app:
        run_id = await app.start()
        await entered.wait()
        await app.services.orchestrator.cancel(run_id)
        assert (await app.ended(run_id)).state == RunState.CANCELLED
        enough.set()
        await told.wait()
    assert types(await verified_log(database, run_id)) == ["RunStarted", "RunCancelled"]


async def test_a_cancellation_that_nobody_rang_for_is_found_by_polling(
    database: Database, settings: MakeSettings
) -> None:
    """The row alone, as another process would leave it if its notification were lost."""
    agent = Waiting()
    async with running(settings(), agent) as app:
        run_id = await app.start()
        await agent.entered.wait()
        await execute(database, "update tailrace.runs set cancel_requested_at = clock_timestamp()")
        assert (await app.ended(run_id)).state == RunState.CANCELLED
    await verified_log(database, run_id)


async def listening(services: Services) -> bool | None:
    try:
        await services.bus.check()
    except BusUnavailable:
        return None
    return True


async def test_a_cancellation_in_another_process_arrives_by_notification(
    database: Database, settings: MakeSettings, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any polling."""
    monkeypatch.setattr(worker, "CANCEL_POLL_SECONDS", 3600.0)
    agent = Waiting()
    async with running(settings(), agent) as app:
        run_id = await app.start()
        await agent.entered.wait()
        await until(lambda: listening(app.services))
        telemetry = Telemetry([Told()])
        elsewhere = Doorbell(database, telemetry)
        await Orchestrator(runs, elsewhere, telemetry, on_committed=lambda _: None).cancel(run_id)
        await elsewhere.flush()
        assert (await app.ended(run_id)).state == RunState.CANCELLED
    await verified_log(database, run_id)


async def test_cancel_and_finish_race_to_exactly_one_end(database: Database, settings: MakeSettings) -> None:
    """A hundred runs, each cancelled at about the moment at which its agent returns: state and event agree, and a
    caller who was told that it was over finds it over."""
    go: dict[str, asyncio.Event] = {}

    async def agent(run: tailrace.Run) -> str:
        await go[run.id].wait()
        await run.trace("last")
        return "done"

    async with running(settings(), agent) as app:

        async def race(number: int) -> RunState:
            run_id = f"race-{number}"
            go[run_id] = asyncio.Event()
            await app.start(run_id=run_id)
            if number % 4:
                await app.told.until(JobStarted, run_id=run_id)
            go[run_id].set()
            for _ in range(number % 7):
                await asyncio.sleep(0)
            try:
                await app.services.orchestrator.cancel(run_id)
            except RunTerminated:
                assert (await app.services.runs.get(run_id)).state == RunState.FINISHED
            run = await app.ended(run_id)
            assert (run.output is not None) == (run.state == RunState.FINISHED)
            await verified_log(database, run_id)
            return run.state

        states = set(await asyncio.gather(*(race(number) for number in range(100))))
    assert states <= {RunState.FINISHED, RunState.CANCELLED}
    assert RunState.CANCELLED in states


async def test_a_run_that_was_to_end_when_its_worker_died_is_not_begun_again(
    database: Database, settings: MakeSettings, runs: Runs, leases: Leases
) -> None:
    """Whoever takes it over writes RunCancelled and does not call the agent."""
    lease = await started(runs, leases, worker="dead")
    await runs.cancel(lease.run_id, NOW_MS)
    await expire(database, lease.run_id)
    called: list[str] = []

    async def agent(run: tailrace.Run) -> None:
        called.append(run.id)

    async with running(settings(), agent) as app:
        assert (await app.ended(lease.run_id)).state == RunState.CANCELLED
    assert called == []
    assert types(await verified_log(database, lease.run_id)) == ["RunStarted", "DebugTrace", "RunCancelled"]


async def test_cancelling_one_run_leaves_the_others_alone(database: Database, settings: MakeSettings) -> None:
    """Twenty runs wait in one worker; every second one is cancelled."""
    go = asyncio.Event()

    async def agent(run: tailrace.Run) -> None:
        await go.wait()

    async with running(settings(), agent) as app:
        ids = [await app.start() for _ in range(20)]
        await app.told.until(JobStarted, count=20)
        await asyncio.gather(*(app.services.orchestrator.cancel(run_id) for run_id in ids[::2]))
        for run_id in ids[::2]:
            assert (await app.ended(run_id)).state == RunState.CANCELLED
        go.set()
        for run_id in ids[1::2]:
            assert (await app.ended(run_id)).state == RunState.FINISHED


async def test_a_run_of_an_agent_that_nobody_serves_waits_and_can_be_cancelled(
    database: Database, settings: MakeSettings, runs: Runs, leases: Leases
) -> None:
    """It is not claimed by a worker that has other agents."""
    run_id = await queued(runs, agent="unserved")

    async def agent(run: tailrace.Run) -> None:
        return None

    async with running(settings(), agent) as app:
        await app.ended(await app.start(AGENT))
        assert (await runs.get(run_id)).state == RunState.QUEUED
        await app.services.orchestrator.cancel(run_id)
        assert (await until_ended(app.services, run_id)).state == RunState.CANCELLED
    assert await claim(leases) == []
