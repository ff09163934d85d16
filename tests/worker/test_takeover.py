"""Runs that change hands: kept steps, fences, and workers that die or stop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial

import pytest

import tailrace
from tailrace.model import draft
from tailrace.model.run import Lease, RunState
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.events import Events, RunAppend
from tailrace.store.leases import Leases
from tailrace.store.runs import Runs
from tailrace.telemetry import JobEnded, JobStarted
from tailrace.worker import execution, worker
from tests.patience import PATIENCE_SECONDS
from tests.write_support import (
    NOW_MS,
    add,
    claim,
    execute,
    expire,
    fetch,
    fill,
    queued,
    running,
    started,
    traces,
    types,
    until,
    until_waiting_for_a_lock,
    value,
    verified_log,
)

MakeSettings = Callable[..., Settings]


async def test_a_run_whose_worker_died_is_resumed_after_its_lease(
    database: Database, settings: MakeSettings, runs: Runs, leases: Leases, events: Events
) -> None:
    """DebugTrace run.resumed stands where the new worker begins, the old epoch appends nothing any more, and seqs go
    on without a gap."""
    dead = await started(runs, leases, worker="dead")
    await fill(events, dead, 3)
    await expire(database, dead.run_id)

    async def agent(run: tailrace.Run) -> str:
        heads = await events.append([add(dead, 7, traces(1, "ghost"))])
        assert heads[run.id].epoch == dead.epoch + 1
        await run.trace("alive")
        return "done"

    async with running(settings(), agent) as app:
        run = await app.ended(dead.run_id)
        job = await app.told.until(JobStarted)
        assert (job.epoch, job.resumed) == (2, True)
    assert (run.state, run.output) == (RunState.FINISHED, '"done"')
    log = await verified_log(database, dead.run_id)
    assert [event.fn for event in log] == [None, "t0", "t1", "t2", "run.resumed", "alive", None]
    rows = await fetch(database, "select epoch from tailrace.run_events order by seq")
    assert [row["epoch"] for row in rows] == [0, 1, 1, 1, 2, 2, 2]
    assert await value(database, "select takeovers from tailrace.runs") == 1


class Counted:
    """A plain function that counts its calls."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def __call__(self, given: object) -> object:
        self.calls.append(given)
        return given


async def test_kept_steps_are_neither_called_nor_emitted_again(database: Database, settings: MakeSettings) -> None:
    """A worker that stops gives the run back; the next one gets the results of the first, also null ones, and those
    of steps with the same name by their order."""
    read = Counted()
    reached = asyncio.Event()
    seen: list[list[object]] = []

    async def agent(run: tailrace.Run) -> object:
        mine: list[object] = []
        seen.append(mine)
        mine.append(await run.step("Read", read, "a"))
        mine.append(await run.step("Read", read, ("b", 1.5)))
        mine.append(await run.step("Other", read, None))
        await run.emit("Progress")
        if len(seen) == 1:
            reached.set()
            await asyncio.Event().wait()
        mine.append(await run.step("Read", read, "c"))
        return mine

    async with running(settings(), agent) as first:
        run_id = await first.start()
        await reached.wait()
    assert (await first.told.until(JobEnded)).state == "released"
    async with running(settings(), agent) as second:
        run = await second.ended(run_id)
    assert read.calls == ["a", ("b", 1.5), None, "c"]
    assert seen == [["a", ["b", 1.5], None], ["a", ["b", 1.5], None, "c"]]
    assert json.loads(run.output or "") == seen[1]
    nodes = ["NodeStarted", "NodeFinished"]
    assert types(await verified_log(database, run_id)) == [
        "RunStarted", *nodes * 3, "Custom", "DebugTrace", "Custom", *nodes, "RunFinished",
    ]  # fmt: skip
    assert await value(database, "select takeovers from tailrace.runs") == 0


async def test_a_step_that_did_not_finish_is_called_again(
    database: Database, settings: MakeSettings, runs: Runs, leases: Leases, events: Events
) -> None:
    """NodeStarted alone keeps nothing; what was kept before it stays kept."""
    dead = await started(runs, leases, worker="dead")
    node = [draft.node_started("Read", NOW_MS), draft.node_finished("Read", NOW_MS), draft.node_started("Read", NOW_MS)]
    await events.append([RunAppend(dead.run_id, dead.epoch, 2, node, [("Read#1", 3, '"kept"')])])
    await expire(database, dead.run_id)
    read = Counted()

    async def agent(run: tailrace.Run) -> object:
        return [await run.step("Read", read, "x"), await run.step("Read", read, "y")]

    async with running(settings(), agent) as app:
        run = await app.ended(dead.run_id)
    assert run.output == '["kept","y"]'
    assert read.calls == ["y"]


@pytest.mark.parametrize("kind", ["coroutine", "plain", "partial of a coroutine", "lambda"])
async def test_a_step_takes_any_callable_and_returns_what_json_makes_of_it(settings: MakeSettings, kind: str) -> None:
    """The first time returns what the resumed time would: a tuple is a list in both."""

    async def double(number: int) -> tuple[int, ...]:
        return (number, number)

    functions: dict[str, Callable[[int], object]] = {
        "coroutine": double,
        "plain": lambda number: (number, number),
        "partial of a coroutine": partial(double),
        "lambda": lambda number: double(number + 0),
    }

    async def agent(run: tailrace.Run) -> object:
        result = await run.step("Double", functions[kind], 2)
        assert result == [2, 2]
        return result

    async with running(settings(), agent) as app:
        assert (await app.ended(await app.start())).output == "[2,2]"


async def test_a_step_whose_result_is_not_json_fails_and_keeps_nothing(
    database: Database, settings: MakeSettings, leases: Leases
) -> None:
    """The error names the step."""

    async def agent(run: tailrace.Run) -> None:
        await run.step("Make", object)

    async with running(settings(), agent) as app:
        run = await app.ended(await app.start())
    assert run.error_class == "InvalidEvent"
    assert run.error_message is not None
    assert run.error_message.startswith("the result of step 'Make' is not JSON")
    assert await leases.kept_steps(run.id) == {}
    assert types(await verified_log(database, run.id)) == ["RunStarted", "NodeStarted", "RunFailed"]


@pytest.mark.parametrize("name", ["", 5, None, ["n"], "a\x00", "n" * 257], ids=repr)
async def test_a_step_with_a_bad_name_is_refused_before_it_is_called(settings: MakeSettings, name: object) -> None:
    """As for every event: InvalidEvent."""
    read = Counted()

    async def agent(run: tailrace.Run) -> None:
        await run.step(name, read, 1)  # type: ignore[arg-type] # that it is wrong is the point

    async with running(settings(), agent) as app:
        run = await app.ended(await app.start())
    assert run.error_class == "InvalidEvent"
    assert read.calls == []


async def test_a_worker_that_lost_its_lease_stops_its_agent_and_writes_nothing(
    database: Database, settings: MakeSettings, events: Events
) -> None:
    """It finds out when it renews; what is in the log from then on is the new owner's alone."""
    entered, stopped = asyncio.Event(), asyncio.Event()

    async def agent(run: tailrace.Run) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with running(settings(lease_seconds=15), agent) as app:
        run_id = await app.start()
        await entered.wait()
        lease = await _stolen(database, run_id)
        await events.append([add(lease, 2, traces(2, "new"))])
        await stopped.wait()
        assert (await app.told.until(JobEnded, run_id=run_id)).state == "lease-lost"
    log = await verified_log(database, run_id)
    assert [event.fn for event in log] == [None, "new0", "new1"]


async def _stolen(database: Database, run_id: str) -> Lease:
    """Take a run away from its worker in one statement, as if that had been frozen past its lease."""
    (row,) = await fetch(
        database,
        """
        update tailrace.runs
        set epoch = epoch + 1, lease_owner = 'thief', lease_until = clock_timestamp() + interval '1 hour'
        where id = $1
        returning epoch, last_seq
        """,
        run_id,
    )
    return Lease(run_id, "agent", None, row["epoch"], row["last_seq"], 1, True, False, 0.0)


@pytest.mark.parametrize("swallows", [False, True])
async def test_an_agent_that_emits_under_a_lost_lease_is_told_and_ends_nothing(
    database: Database, settings: MakeSettings, swallows: bool
) -> None:
    """LeaseLost at the next await, whether the agent lets it pass or not; no terminal event."""
    entered, go = asyncio.Event(), asyncio.Event()
    told: list[BaseException] = []

    async def agent(run: tailrace.Run) -> str:
        entered.set()
        await go.wait()
        for _ in range(3):
            try:
                await run.emit("Late")
            except tailrace.LeaseLost as error:
                told.append(error)
                if not swallows:
                    raise
        return "done"

    async with running(settings(lease_seconds=3600), agent) as app:
        run_id = await app.start()
        await entered.wait()
        await _stolen(database, run_id)
        go.set()
        assert (await app.told.until(JobEnded, run_id=run_id)).state == "lease-lost"
    assert len(told) == (3 if swallows else 1)
    assert types(await verified_log(database, run_id)) == ["RunStarted"]


async def test_a_lease_is_renewed_for_as_long_as_the_agent_runs(database: Database, settings: MakeSettings) -> None:
    """Its end moves on by Postgres's clock, and the run stays with its worker."""
    entered, go = asyncio.Event(), asyncio.Event()

    async def agent(run: tailrace.Run) -> None:
        entered.set()
        await go.wait()

    async with running(settings(lease_seconds=15), agent) as app:
        run_id = await app.start()
        await entered.wait()
        first = await value(database, "select lease_until from tailrace.runs")

        async def renewed() -> bool | None:
            now = await value(database, "select lease_until from tailrace.runs")
            return True if now > first else None

        await until(renewed)
        go.set()
        assert (await app.ended(run_id)).state == RunState.FINISHED
    assert [job.epoch for job in app.told.of(JobStarted)] == [1]


async def test_a_run_that_kills_every_worker_is_given_up(
    database: Database, settings: MakeSettings, runs: Runs, leases: Leases
) -> None:
    """After more take-overs than allowed it ends in RunFailed, without calling the agent again."""
    lease = await started(runs, leases, worker="dead")
    for turn in range(execution.TAKEOVERS_MAX):
        await expire(database, lease.run_id)
        (lease,) = await claim(leases, worker=f"dead{turn}")
    assert lease.takeovers == execution.TAKEOVERS_MAX
    await expire(database, lease.run_id)
    called: list[str] = []

    async def agent(run: tailrace.Run) -> None:
        called.append(run.id)

    async with running(settings(), agent) as app:
        run = await app.ended(lease.run_id)
    assert (run.state, run.error_class) == (RunState.FAILED, "TooManyTakeovers")
    assert called == []
    assert types(await verified_log(database, lease.run_id))[-1] == "RunFailed"


async def test_the_last_allowed_takeover_still_calls_the_agent(
    database: Database, settings: MakeSettings, runs: Runs, leases: Leases
) -> None:
    """The bound counts dead workers, not attempts."""
    lease = await started(runs, leases, worker="dead")
    await execute(database, "update tailrace.runs set takeovers = $1", execution.TAKEOVERS_MAX - 1)
    await expire(database, lease.run_id)

    async def agent(run: tailrace.Run) -> str:
        return "done"

    async with running(settings(), agent) as app:
        assert (await app.ended(lease.run_id)).state == RunState.FINISHED


async def test_a_worker_that_stops_gives_its_runs_back_at_once(
    database: Database, settings: MakeSettings, leases: Leases
) -> None:
    """No lease to wait for, and no take-over that counts against the run."""
    entered = asyncio.Event()

    async def agent(run: tailrace.Run) -> None:
        await run.trace("before")
        entered.set()
        await asyncio.Event().wait()

    async with running(settings(lease_seconds=3600), agent) as app:
        run_id = await app.start()
        await entered.wait()
    (lease,) = await claim(leases, worker="next")
    assert (lease.run_id, lease.epoch, lease.takeovers, lease.resumed) == (run_id, 2, 0, True)
    assert types(await verified_log(database, run_id)) == ["RunStarted", "DebugTrace"]


@pytest.mark.parametrize("moment", ["at its end", "when it is resumed"])
async def test_a_worker_can_stop_while_a_run_waits_for_postgres(
    database: Database, settings: MakeSettings, runs: Runs, leases: Leases, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose event cannot be written does not keep the process alive: its lease says how it goes on."""
    monkeypatch.setattr(worker, "CANCEL_GRACE_SECONDS", 0.05)
    monkeypatch.setattr(execution, "CANCEL_GRACE_SECONDS", 0.05)
    if moment == "when it is resumed":
        lease = await started(runs, leases, worker="dead")
        await expire(database, lease.run_id)
        run_id = lease.run_id
    else:
        run_id = await queued(runs)
    locked = asyncio.Event()

    async def agent(run: tailrace.Run) -> str:
        await locked.wait()
        return "done"

    other = asyncio.create_task(_hold_events(database, locked))
    await locked.wait()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            async with running(settings(tx_timeout_ms=1000), agent, ("worker",)) as app:
                await app.told.until(JobStarted, run_id=run_id)
                await until_waiting_for_a_lock(database)
    finally:
        other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other
    assert types(await verified_log(database, run_id)) == ["RunStarted"]


async def _hold_events(database: Database, locked: asyncio.Event) -> None:
    """Let nobody write an event until cancelled."""
    async with database.transaction() as connection:
        await connection.execute("set local idle_in_transaction_session_timeout = 0")
        await connection.execute(f'lock table "{database.schema}".run_events in share mode')
        locked.set()
        await asyncio.Event().wait()


async def test_two_workers_share_a_queue_and_every_agent_is_called_once(
    database: Database, settings: MakeSettings
) -> None:
    """Two processes' worth of parts on one schema."""
    called: list[str] = []

    async def agent(run: tailrace.Run) -> None:
        called.append(run.id)
        await run.trace("x")

    async with running(settings(), agent) as one, running(settings(), agent, ("worker",)) as two:
        ids = [await one.start() for _ in range(40)]
        for run_id in ids:
            await one.ended(run_id)
            await verified_log(database, run_id)
        jobs = [job.run_id for app in (one, two) for job in app.told.of(JobStarted)]
    assert sorted(called) == sorted(ids)
    assert sorted(jobs) == sorted(ids)
