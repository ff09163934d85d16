"""Group commit: every event once, in order, whatever happens to the connection that carried it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest

from tailrace.errors import DatabaseUnavailable, InvalidEvent, LeaseLost, RunTerminated
from tailrace.model import draft
from tailrace.model.draft import Draft
from tailrace.model.event import EventType
from tailrace.model.run import Lease, RunState
from tailrace.store.database import POOL_MAX, Database
from tailrace.store.events import Events, RunAppend, RunHead
from tailrace.store.leases import Leases
from tailrace.store.runs import Runs
from tailrace.telemetry import EventsPersisted, Telemetry
from tailrace.worker.duties import Duty, perform
from tailrace.write import line as module
from tailrace.write.appender import ANSWERS_A_TURN, Appender
from tailrace.write.line import RunLog
from tests.patience import PATIENCE_SECONDS
from tests.write_support import (
    NOW_MS,
    Told,
    claim,
    execute,
    expire,
    queued,
    started,
    traces,
    types,
    until,
    value,
    verified_log,
)

BAD_JSON = Draft(EventType.CUSTOM, NOW_MS, name="bad", data="{")
FINISHED = draft.run_finished(NOW_MS)


class Wire(Events):
    """The real repository, with a count of its calls and a place to break them before or after the commit."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.sizes: list[int] = []
        self.before: Callable[[int], Awaitable[None]] | None = None
        self.after: Callable[[int], Awaitable[None]] | None = None

    async def append(self, batch: Sequence[RunAppend]) -> dict[str, RunHead]:
        self.sizes.append(sum(len(add.drafts) for add in batch))
        call = len(self.sizes)
        if self.before is not None:
            await self.before(call)
        heads = await super().append(batch)
        if self.after is not None:
            await self.after(call)
        return heads


@pytest.fixture
def wire(database: Database) -> Wire:
    return Wire(database)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def appender(wire: Wire, told: Told) -> Appender:
    return Appender(wire, Telemetry([told]), on_committed=lambda _: None)


@asynccontextmanager
async def flushing(appender: Appender, told: Told, lane: int = 0) -> AsyncIterator[None]:
    duty = Duty("flush", partial(appender.flush_once, lane), 60, appender.work)
    task = asyncio.create_task(perform(duty, Telemetry([told])))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def log_of(lease: Lease) -> RunLog:
    return RunLog(lease.run_id, epoch=lease.epoch, last_seq=lease.last_seq)


async def until_minted(log: RunLog, seq: int) -> None:
    while log.last_seq < seq:  # noqa: ASYNC110 - the turn of a loop is all that is waited for
        await asyncio.sleep(0)


async def test_many_tasks_on_many_runs_write_every_event_once_and_in_order(
    database: Database, runs: Runs, leases: Leases, wire: Wire, appender: Appender, told: Told
) -> None:
    """1,200 events of 20 runs, in far fewer transactions than events; each call returns its own seq."""
    logs = [log_of(await started(runs, leases)) for _ in range(20)]

    async def emit(log: RunLog) -> list[int]:
        return [await appender.append(log, traces(1, f"{number}-")) for number in range(60)]

    async with flushing(appender, told):
        seqs = await asyncio.gather(*(emit(log) for log in logs))
    assert seqs == [list(range(2, 62))] * 20
    for log in logs:
        assert [event.fn for event in (await verified_log(database, log.run_id))[1:]] == [f"{n}-0" for n in range(60)]
    assert sum(wire.sizes) == 1200
    assert len(wire.sizes) < 1200 / 5
    persisted = [
        (run.run_id, seq)
        for happening in told.of(EventsPersisted)
        for run in happening.runs
        for seq, _ in enumerate(run.types, run.first_seq)
    ]
    assert len(persisted) == len(set(persisted)) == 1200


async def test_both_lanes_write_and_a_run_is_never_in_both(
    database: Database, runs: Runs, leases: Leases, wire: Wire, appender: Appender, told: Told
) -> None:
    """80 runs, half of them in each statement while there is enough; every log is whole and in order."""
    logs = [log_of(await started(runs, leases)) for _ in range(80)]
    in_flight: set[str] = set()
    together: list[int] = []
    append = wire.append

    async def watched(batch: Sequence[RunAppend]) -> dict[str, RunHead]:
        ids = {each.run_id for each in batch}
        assert not ids & in_flight
        in_flight.update(ids)
        together.append(len(in_flight))
        try:
            return await append(batch)
        finally:
            in_flight.difference_update(ids)

    wire.append = watched  # type: ignore[method-assign]

    async def emit(log: RunLog) -> None:
        for number in range(0, 20, 2):
            await asyncio.gather(*(appender.append(log, traces(1, f"{n}-")) for n in (number, number + 1)))

    async with flushing(appender, told), flushing(appender, told, lane=1):
        await asyncio.gather(*(emit(log) for log in logs))
    for log in logs:
        assert [event.fn for event in (await verified_log(database, log.run_id))[1:]] == [f"{n}-0" for n in range(20)]
    assert max(together) == 80
    assert max(wire.sizes) <= 2 * 80
    # Halves, before any answer.
    assert wire.sizes[:2] == [80, 80]


async def test_a_lane_waits_for_a_share_of_what_the_other_has_in_flight(
    runs: Runs, leases: Leases, wire: Wire, appender: Appender
) -> None:
    """Unequal batches would stay unequal, and cost a statement for few events each time; a quarter is enough."""
    logs = [log_of(await started(runs, leases)) for _ in range(25)]
    in_flight, go_on = asyncio.Event(), asyncio.Event()

    async def hold(call: int) -> None:
        if call == 1:
            in_flight.set()
            await go_on.wait()

    async def emit(some: Sequence[RunLog]) -> None:
        calls.extend(asyncio.create_task(appender.append(log, traces(1))) for log in some)
        for log in some:
            await until_minted(log, 2)

    wire.before = hold
    calls: list[asyncio.Task[int]] = []
    await emit(logs[:20])
    first = asyncio.create_task(appender.flush_once(0))
    await in_flight.wait()
    await emit(logs[20:24])
    assert not await appender.flush_once(1)
    await emit(logs[24:])
    assert await appender.flush_once(1)
    go_on.set()
    assert await first
    assert wire.sizes == [20, 5]
    assert await asyncio.gather(*calls) == [2] * 25


async def test_a_flooding_run_does_not_fill_the_batches_of_the_others(
    runs: Runs, leases: Leases, wire: Wire, appender: Appender, told: Told
) -> None:
    """What a quiet run emits behind thousands of events of another one goes out with the next statement."""
    flood, quiet = log_of(await started(runs, leases)), log_of(await started(runs, leases))
    flooding = [asyncio.create_task(appender.append(flood, traces(1))) for _ in range(3000)]
    await until_minted(flood, 3001)
    async with flushing(appender, told):
        await appender.append(quiet, traces(1))
        assert len(wire.sizes) <= 2
        await asyncio.gather(*flooding)


async def test_tasks_of_one_run_get_their_places_in_the_order_of_their_calls(
    database: Database, runs: Runs, leases: Leases, appender: Appender, told: Told
) -> None:
    """Also when some bring several events at once."""
    log = log_of(await started(runs, leases))
    async with flushing(appender, told):
        seqs = await asyncio.gather(
            *(appender.append(log, traces(1 + number % 3, f"{number}-")) for number in range(300))
        )
    assert seqs == sorted(seqs)
    expected = [f"{number}-{part}" for number in range(300) for part in range(1 + number % 3)]
    assert [event.fn for event in (await verified_log(database, log.run_id))[1:]] == expected


async def test_a_commit_whose_answer_is_lost_is_written_once(
    database: Database, runs: Runs, leases: Leases, wire: Wire, appender: Appender, told: Told
) -> None:
    """The driver raises after Postgres has committed, every second time, for a run that also ends so."""
    ending, going_on = log_of(await started(runs, leases)), log_of(await started(runs, leases))

    async def lose(call: int) -> None:
        if call % 2:
            raise DatabaseUnavailable("the answer was lost")

    wire.after = lose
    async with flushing(appender, told):
        seqs = [await appender.append(log, traces(2)) for log in (ending, going_on) for _ in range(3)]
        assert seqs == [3, 5, 7, 3, 5, 7]
        assert await appender.append(ending, [FINISHED], state=RunState.FINISHED, output="1") == 8
        assert await appender.append(going_on, traces(1), step=("n#1", "1")) == 8
    assert types(await verified_log(database, ending.run_id))[-1] == "RunFinished"
    assert len(await verified_log(database, going_on.run_id)) == 8
    assert len(wire.sizes) == 2 * 8


async def test_a_connection_that_is_killed_while_it_appends_loses_and_repeats_nothing(
    database: Database, runs: Runs, leases: Leases, wire: Wire, appender: Appender, told: Told
) -> None:
    """Postgres ends the session before the statement has its locks; the same batch goes out again."""
    log = log_of(await started(runs, leases))
    async with flushing(appender, told):
        async with database.transaction() as connection:
            await connection.execute(f'select from "{database.schema}".runs for update')
            emitting = asyncio.create_task(appender.append(log, traces(3)))
            await until(lambda: killed(database))
        assert await emitting == 4
    assert len(wire.sizes) >= 2
    assert len(await verified_log(database, log.run_id)) == 4


async def killed(database: Database) -> bool | None:
    """End the session that waits for a lock, if there is one."""
    found: bool | None = await value(
        database,
        "select bool_or(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and wait_event_type = 'Lock'",
    )
    return found


KILLS = 50


async def test_sessions_that_are_killed_again_and_again_lose_and_repeat_nothing(
    database: Database, runs: Runs, leases: Leases, appender: Appender, told: Told
) -> None:
    """Ten runs emit 40 events each while every session of the pool is ended over and over."""
    logs = [log_of(await started(runs, leases)) for _ in range(10)]
    done = asyncio.Event()

    async def kill() -> None:
        # Not for ever: a machine that is slower than the killing would never write anything.
        for _ in range(KILLS):
            with contextlib.suppress(DatabaseUnavailable):
                await value(
                    database,
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                    " where datname = current_database() and application_name = 'tailrace' and pid <> pg_backend_pid()",
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await done.wait()
                    return

    async def emit(log: RunLog) -> None:
        for number in range(40):
            await appender.append(log, traces(1, f"{number}-"))

    killing = asyncio.create_task(kill())
    async with flushing(appender, told):
        await asyncio.gather(*(emit(log) for log in logs))
    done.set()
    await killing
    for _ in range(POOL_MAX):
        # The last killing may have left connections that nobody has noticed yet.
        with contextlib.suppress(DatabaseUnavailable):
            await value(database, "select 1")
    for log in logs:
        assert [event.fn for event in (await verified_log(database, log.run_id))[1:]] == [f"{n}-0" for n in range(40)]


async def test_an_append_after_the_end_is_refused_as_terminated(
    database: Database, runs: Runs, leases: Leases, events: Events, appender: Appender, told: Told
) -> None:
    """By the same worker at once, by another copy of the lease when Postgres says so."""
    lease = await started(runs, leases)
    log, copy = log_of(lease), log_of(lease)
    async with flushing(appender, told):
        await appender.append(log, [FINISHED], state=RunState.FINISHED)
        for late in (log, copy, copy):
            with pytest.raises(RunTerminated):
                await appender.append(late, traces(1))
    assert len(await verified_log(database, lease.run_id)) == 2


async def test_what_is_emitted_behind_the_terminal_event_is_refused_alone(
    database: Database, runs: Runs, leases: Leases, appender: Appender, told: Told
) -> None:
    """A task that an agent left behind emits in the same batch as the run's end: the run ends all the same."""
    log = log_of(await started(runs, leases))
    ending = asyncio.create_task(appender.append(log, [FINISHED], state=RunState.FINISHED))
    await until_minted(log, 2)
    leftover = asyncio.create_task(appender.append(log, traces(1)))
    await asyncio.sleep(0)
    async with flushing(appender, told):
        assert await ending == 2
        with pytest.raises(RunTerminated):
            await leftover
    assert types(await verified_log(database, log.run_id)) == ["RunStarted", "RunFinished"]


@pytest.mark.parametrize("new_comes_at", [0, 2, 5])
async def test_a_lost_lease_and_its_successor_in_one_process_do_not_vouch_for_each_other(
    database: Database, runs: Runs, leases: Leases, appender: Appender, told: Told, new_comes_at: int
) -> None:
    """Invariant 6 where both wait for the same batch: the new owner's event is there, the old one's are not."""
    lease = await started(runs, leases)
    await expire(database, lease.run_id)
    (second,) = await claim(leases, worker="w2")
    old, new = log_of(lease), log_of(second)
    async with flushing(appender, told):
        calls = [appender.append(old, traces(1, "old")) for _ in range(5)]
        calls.insert(new_comes_at, appender.append(new, traces(1, "new")))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert outcomes.pop(new_comes_at) == 2
        assert [type(outcome) for outcome in outcomes] == [LeaseLost] * 5
        with pytest.raises(LeaseLost):
            await appender.append(old, traces(1, "old"))
    assert [event.fn for event in await verified_log(database, lease.run_id)] == [None, "new0"]


async def test_an_append_to_a_run_that_was_deleted_is_refused(
    database: Database, runs: Runs, leases: Leases, appender: Appender, told: Told
) -> None:
    """It does not wait for ever."""
    lease = await started(runs, leases)
    await execute(database, "delete from tailrace.runs")
    async with flushing(appender, told):
        with pytest.raises(LeaseLost, match="does not exist"):
            await appender.append(log_of(lease), traces(1))


@pytest.mark.parametrize(
    "bad",
    [
        BAD_JSON, Draft(EventType.CUSTOM, NOW_MS, name="a\x00b"), Draft(EventType.DEBUG_TRACE, NOW_MS),
        Draft(EventType.CUSTOM, 2**70, name="n"),
    ],
    ids=["bad json", "U+0000", "check violation", "refused by the driver"],
)  # fmt: skip
async def test_rows_that_postgres_refuses_do_not_poison_the_batch(
    database: Database, runs: Runs, leases: Leases, appender: Appender, told: Told, bad: Draft
) -> None:
    """Whoever brought them is told; the other runs of the batch commit, and its own run goes on without a gap."""
    poisoned, *others = [log_of(await started(runs, leases)) for _ in range(4)]
    calls = [
        asyncio.create_task(appender.append(log, drafts))
        for log, drafts in (
            (others[0], traces(2)), (poisoned, traces(1)), (poisoned, [bad]), (others[1], traces(2)),
            (others[2], traces(2)),
        )
    ]  # fmt: skip
    await asyncio.sleep(0)
    async with flushing(appender, told):
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [int, InvalidEvent, InvalidEvent, int, int]
        assert await appender.append(poisoned, traces(1, "after")) == 2
        assert await appender.append(poisoned, [FINISHED], state=RunState.FINISHED) == 3
    assert types(await verified_log(database, poisoned.run_id)) == ["RunStarted", "DebugTrace", "RunFinished"]
    for log in others:
        assert len(await verified_log(database, log.run_id)) == 3


async def test_an_end_that_postgres_refuses_can_be_replaced_by_another(
    database: Database, runs: Runs, leases: Leases, appender: Appender, told: Told
) -> None:
    """A run whose output cannot be stored is not left without an end."""
    log = log_of(await started(runs, leases))
    async with flushing(appender, told):
        with pytest.raises(InvalidEvent):
            await appender.append(log, [FINISHED], state=RunState.FINISHED, output="{")
        failed = draft.run_failed(ValueError("x"), NOW_MS, max_bytes=1000)
        assert await appender.append(log, [failed], state=RunState.FAILED) == 2
    assert types(await verified_log(database, log.run_id)) == ["RunStarted", "RunFailed"]


async def test_a_refusal_is_given_once_even_if_the_database_goes_away_behind_it(
    database: Database, runs: Runs, leases: Leases, wire: Wire, appender: Appender, told: Told
) -> None:
    """The batch is taken apart, one run is refused, the next one's answer is lost: what the first run has emitted
    meanwhile is not refused with it."""
    poisoned, other = log_of(await started(runs, leases)), log_of(await started(runs, leases))
    later: list[asyncio.Task[int]] = []

    async def lose_the_third(call: int) -> None:
        if call == 3:
            later.append(asyncio.create_task(appender.append(poisoned, traces(1, "later"))))
            await until_minted(poisoned, 2)
            raise DatabaseUnavailable("the answer was lost")

    wire.after = lose_the_third
    calls = [
        asyncio.create_task(appender.append(poisoned, [BAD_JSON])),
        asyncio.create_task(appender.append(other, traces(1))),
    ]
    await asyncio.sleep(0)
    async with flushing(appender, told):
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [InvalidEvent, int]
        assert await later[0] == 2
    assert [event.fn for event in await verified_log(database, poisoned.run_id)] == [None, "later0"]
    assert len(await verified_log(database, other.run_id)) == 2


async def test_a_call_that_is_given_up_leaves_no_gap(
    database: Database, runs: Runs, leases: Leases, appender: Appender, told: Told
) -> None:
    """Its event has its place already, so it is written; those behind it keep theirs."""
    log = log_of(await started(runs, leases))
    calls = [asyncio.create_task(appender.append(log, traces(1, f"{number}-"))) for number in range(5)]
    await until_minted(log, 6)
    calls[1].cancel()
    calls[3].cancel()
    async with flushing(appender, told):
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [int, asyncio.CancelledError, int, asyncio.CancelledError, int]
    assert len(await verified_log(database, log.run_id)) == 6


@pytest.mark.parametrize("bound", ["events", "bytes"])
async def test_who_emits_faster_than_postgres_commits_is_held_back(
    database: Database, runs: Runs, leases: Leases, appender: Appender, told: Told,
    monkeypatch: pytest.MonkeyPatch, bound: str,
) -> None:  # fmt: skip
    """What waits is bounded by number and by size; nothing is lost and the order stays."""
    data = "x" * 1000
    if bound == "events":
        monkeypatch.setattr(module, "WAITING_MAX_EVENTS", 10)
    else:
        monkeypatch.setattr(module, "WAITING_MAX_BYTES", 10 * (module.EVENT_OVERHEAD_BYTES + len(f'{{"d":"{data}"}}')))
    log = log_of(await started(runs, leases))
    payload = draft.custom("n", {"d": data}, NOW_MS, max_bytes=10_000)
    calls = [asyncio.create_task(appender.append(log, [payload])) for _ in range(50)]
    for _ in range(100):
        await asyncio.sleep(0)
    assert log.last_seq == 1 + 10
    async with flushing(appender, told):
        assert await asyncio.gather(*calls) == list(range(2, 52))
    assert len(await verified_log(database, log.run_id)) == 51


async def test_a_batch_is_bounded_by_number_and_by_size(
    database: Database, runs: Runs, leases: Leases, wire: Wire, appender: Appender, told: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """But one event always goes, however large it is."""
    monkeypatch.setattr(module, "BATCH_MAX_EVENTS", 7)
    log = log_of(await started(runs, leases))
    calls = [asyncio.create_task(appender.append(log, traces(1))) for _ in range(21)]
    await until_minted(log, 22)
    async with flushing(appender, told):
        await asyncio.gather(*calls)
        assert wire.sizes == [7, 7, 7]
        monkeypatch.setattr(module, "BATCH_MAX_BYTES", 1)
        await asyncio.gather(*(appender.append(log, traces(1)) for _ in range(3)))
    assert wire.sizes == [7, 7, 7, 1, 1, 1]
    assert len(await verified_log(database, log.run_id)) == 25


async def test_closing_fails_what_is_in_flight_what_waits_and_what_is_held_back(
    runs: Runs, leases: Leases, wire: Wire, appender: Appender, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever in a process that stops."""
    monkeypatch.setattr(module, "WAITING_MAX_EVENTS", 3)
    log = log_of(await started(runs, leases))
    in_flight = asyncio.Event()

    async def hang(_call: int) -> None:
        in_flight.set()
        await asyncio.Event().wait()

    wire.before = hang
    async with flushing(appender, told):
        calls = [asyncio.create_task(appender.append(log, traces(1)))]
        await in_flight.wait()
        calls += [asyncio.create_task(appender.append(log, traces(1))) for _ in range(10)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert log.last_seq == 1 + 1 + 3
        appender.close()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 11
        with pytest.raises(DatabaseUnavailable):
            await appender.append(log, traces(1))


async def test_a_run_is_written_only_under_a_lease(
    database: Database, runs: Runs, appender: Appender, told: Told
) -> None:
    """A queued run's epoch is 0; nobody holds it, so nobody writes."""
    run_id = await queued(runs)
    async with flushing(appender, told):
        with pytest.raises(LeaseLost):
            await appender.append(RunLog(run_id, epoch=0, last_seq=1), traces(1))
    assert len(await verified_log(database, run_id)) == 1


async def test_callers_of_one_run_are_woken_in_turns(
    runs: Runs, leases: Leases, appender: Appender, told: Told
) -> None:
    """A run that floods from many tasks leaves others the loop between them."""
    log = log_of(await started(runs, leases))
    calls = [asyncio.create_task(appender.append(log, traces(1))) for _ in range(3 * ANSWERS_A_TURN)]
    await until_minted(log, 1 + len(calls))
    woken = [0]
    async with flushing(appender, told):
        while woken[-1] < len(calls):
            await asyncio.sleep(0)
            woken.append(sum(call.done() for call in calls))
    assert max(after - before for before, after in itertools.pairwise(woken)) <= ANSWERS_A_TURN
    assert [call.result() for call in calls] == list(range(2, 2 + len(calls)))


async def test_callers_are_answered_though_the_flush_is_cancelled_between_their_turns(
    runs: Runs, leases: Leases, appender: Appender
) -> None:
    """Their events are committed, and they are told so."""
    log = log_of(await started(runs, leases))
    calls = [asyncio.create_task(appender.append(log, traces(1))) for _ in range(3 * ANSWERS_A_TURN)]
    await until_minted(log, 1 + len(calls))
    flush = asyncio.create_task(appender.flush_once())
    while not calls[0].done():  # noqa: ASYNC110 - the turn of a loop is all that is waited for
        await asyncio.sleep(0)
    assert not calls[-1].done()
    flush.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flush
    appender.close()
    assert await asyncio.gather(*calls) == list(range(2, 2 + len(calls)))
