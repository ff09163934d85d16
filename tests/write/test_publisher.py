"""The outbox: every event to the bus, in order per run, whoever crashes between publishing and marking."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import asyncpg
import pytest

from tailrace.bus.bus import Published
from tailrace.bus.local_first import LocalFirst
from tailrace.errors import BusUnavailable, DatabaseUnavailable
from tailrace.model import draft
from tailrace.model.run import Lease, RunState
from tailrace.store.database import Database
from tailrace.store.events import Events
from tailrace.store.leases import Leases
from tailrace.store.outbox import Outbox, OutboxTransaction
from tailrace.store.runs import Runs
from tailrace.telemetry import EventsPublished, OutboxGap, Telemetry
from tailrace.write import owed
from tailrace.write import publisher as module
from tailrace.write.publisher import Publisher
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS, opened
from tests.write_support import (
    NOW_MS,
    RecordingBus,
    Told,
    add,
    claim,
    execute,
    fill,
    first_times,
    queued,
    shorten_idle,
    started,
    traces,
    until_waiting_for_a_lock,
    value,
    verified_log,
)


def published_count(told: Told) -> int:
    return sum(len(run.events) for happening in told.of(EventsPublished) for run in happening.runs)


@pytest.fixture
def bus() -> RecordingBus:
    return RecordingBus()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def publisher(outbox: Outbox, bus: RecordingBus, told: Told) -> Publisher:
    return Publisher(outbox, bus, Telemetry([told]), bus_timeout_seconds=PATIENCE_SECONDS)


async def logs(
    runs: Runs, leases: Leases, events: Events, count: int, length: int, *, ends: bool = True
) -> list[Lease]:
    """Make ``count`` runs whose logs have ``length`` events each."""
    made = [await started(runs, leases) for _ in range(count)]
    for lease in made:
        await fill(events, lease, length - 1 - ends, ends=ends)
    return made


async def publish_all(publisher: Publisher) -> None:
    """Sweep until nothing is left, as the duty does."""
    while await publisher.sweep_once():
        pass


async def backlog(database: Database) -> int:
    found: int = await value(
        database,
        "select sum(last_seq - next_seq + 1) from tailrace.runs join tailrace.run_outbox on run_id = id",
    )
    return found


async def test_every_event_is_published_once_and_in_order(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus, told: Told
) -> None:
    """More runs than one pass takes, and more events of one than one pass takes."""
    many = await logs(runs, leases, events, 120, 3)
    (long,) = await logs(runs, leases, events, 1, 2 * module.RUN_MAX_EVENTS + 50)
    await publish_all(publisher)
    assert bus.received == {lease.run_id: [1, 2, 3] for lease in many} | {long.run_id: list(range(1, 451))}
    assert await backlog(database) == 0
    for lease in (long, many[0], many[-1]):
        await verified_log(database, lease.run_id)
    assert published_count(told) == 120 * 3 + 450


async def test_a_sweep_that_leaves_events_behind_asks_to_go_on_at_once(
    runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus
) -> None:
    """A long backlog found by the poll is not published at a pass per poll, and the hinted duty is woken for it."""
    (long,) = await logs(runs, leases, events, 1, module.RUN_MAX_EVENTS + 1)
    assert await publisher.sweep_once()
    assert len(bus.received[long.run_id]) == module.RUN_MAX_EVENTS
    assert publisher.work.is_set()
    assert not await publisher.publish_once()
    assert bus.received[long.run_id] == list(range(1, module.RUN_MAX_EVENTS + 2))


async def test_hints_publish_the_named_runs_alone(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus
) -> None:
    """And hints for runs that have nothing, or do not exist, do no harm."""
    first, second = await logs(runs, leases, events, 2, 4)
    publisher.hint([second.run_id, "unknown"])
    assert publisher.work.is_set()
    while await publisher.publish_once():
        pass
    assert bus.received == {second.run_id: [1, 2, 3, 4]}
    publisher.hint([second.run_id])
    await publisher.publish_once()
    assert bus.received == {second.run_id: [1, 2, 3, 4]}
    assert await backlog(database) == 4
    assert first.run_id not in bus.received


async def test_more_hints_than_are_remembered_become_one_look_at_everything(
    runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus
) -> None:
    """Nothing waits for the poll because too much happened."""
    (lease,) = await logs(runs, leases, events, 1, 2)
    publisher.hint([lease.run_id])
    publisher.hint(f"hint-{number}" for number in range(module.HINTS_MAX))
    assert publisher.sweep.is_set()
    assert publisher.news.is_set()  # for what waited until the forgotten ones were read
    await publisher.sweep_once()
    assert bus.received == {lease.run_id: [1, 2]}


async def test_two_publishers_on_one_run_publish_it_in_order_without_a_gap(
    database: Database, runs: Runs, leases: Leases, events: Events, outbox: Outbox, bus: RecordingBus
) -> None:
    """While it grows, hinted and swept, each event goes out once and in its place."""
    lease = await started(runs, leases)
    publishers = [Publisher(outbox, bus, Telemetry(), bus_timeout_seconds=PATIENCE_SECONDS) for _ in range(2)]
    finished = asyncio.Event()

    async def publish(publisher: Publisher) -> None:
        while not finished.is_set() or await backlog(database):
            publisher.hint([lease.run_id])
            await publisher.publish_once()
            await publisher.sweep_once()

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        for publisher in publishers:
            group.create_task(publish(publisher))
        await grow(events, lease, 60)
        finished.set()
    assert bus.received == {lease.run_id: list(range(1, 62))}
    await verified_log(database, lease.run_id)


async def grow(events: Events, lease: Lease, count: int) -> None:
    for number in range(count):
        await events.append([add(lease, 2 + number, traces(1))])


async def test_publishers_that_race_over_many_runs_publish_each_in_order(
    database: Database, runs: Runs, leases: Leases, events: Events, outbox: Outbox, bus: RecordingBus
) -> None:
    """Four of them on 50 runs: nothing twice, nothing missing."""
    many = await logs(runs, leases, events, 50, 12)
    publishers = [Publisher(outbox, bus, Telemetry(), bus_timeout_seconds=PATIENCE_SECONDS) for _ in range(4)]

    async def publish(publisher: Publisher) -> None:
        while await backlog(database):
            publisher.hint(lease.run_id for lease in many)
            await publisher.sweep_once()
            await publisher.publish_once()

    await asyncio.gather(*(publish(publisher) for publisher in publishers))
    assert bus.received == {lease.run_id: list(range(1, 13)) for lease in many}
    for lease in many:
        await verified_log(database, lease.run_id)


async def test_a_run_that_another_publisher_holds_is_skipped_and_looked_at_again(
    runs: Runs, leases: Leases, events: Events, outbox: Outbox, publisher: Publisher, bus: RecordingBus
) -> None:
    """The others are published meanwhile, and the hint comes back by itself, once."""
    held, free = await logs(runs, leases, events, 2, 3)
    async with outbox.transaction() as transaction:
        (taken,) = await transaction.take([held.run_id], [], runs_max=10, events_max=10)
        assert taken.run_id == held.run_id
        publisher.hint([held.run_id, free.run_id])
        assert not await publisher.publish_once()
        assert bus.received == {free.run_id: [1, 2, 3]}
        publisher.work.clear()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await publisher.work.wait()
    assert not await publisher.publish_once()
    assert bus.received == {free.run_id: [1, 2, 3], held.run_id: [1, 2, 3]}


async def test_a_crash_between_publishing_and_marking_publishes_again(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus
) -> None:
    """The bus has the events and the publisher dies: the cursors stand where they stood, nothing is lost."""
    many = await logs(runs, leases, events, 3, 5)

    async def crash() -> None:
        bus.after = None
        raise RuntimeError("the process is gone")

    bus.after = crash
    with pytest.raises(RuntimeError):
        await publisher.sweep_once()
    assert await backlog(database) == 15
    for lease in many:
        await verified_log(database, lease.run_id)
    await publish_all(publisher)
    for lease in many:
        assert bus.received[lease.run_id] == [1, 2, 3, 4, 5] * 2
        assert first_times(bus.received[lease.run_id]) == [1, 2, 3, 4, 5]
        await verified_log(database, lease.run_id)


async def test_a_publisher_that_is_cancelled_before_it_marks_leaves_the_work_to_another(
    database: Database, runs: Runs, leases: Leases, events: Events, outbox: Outbox, publisher: Publisher,
    bus: RecordingBus,
) -> None:  # fmt: skip
    """Its rows are free at once, and its hints are kept for its own next turn."""
    (lease,) = await logs(runs, leases, events, 1, 4)
    handed = asyncio.Event()

    async def hang() -> None:
        handed.set()
        await asyncio.Event().wait()

    bus.after = hang
    publisher.hint([lease.run_id])
    publishing = asyncio.create_task(publisher.publish_once())
    await handed.wait()
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert await backlog(database) == 4
    bus.after = None
    await publisher.publish_once()
    assert bus.received[lease.run_id] == [1, 2, 3, 4] * 2
    await verified_log(database, lease.run_id)


async def test_a_session_that_is_killed_before_it_marks_publishes_again(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus
) -> None:
    """Postgres rolls back what was locked and nothing else happened."""
    (lease,) = await logs(runs, leases, events, 1, 4)

    async def kill() -> None:
        bus.after = None
        assert await value(
            database,
            "select bool_or(pg_terminate_backend(pid)) from pg_stat_activity"
            " where datname = current_database() and state = 'idle in transaction'",
        )

    bus.after = kill
    with pytest.raises(DatabaseUnavailable):
        await publisher.sweep_once()
    assert await backlog(database) == 4
    await publish_all(publisher)
    assert bus.received[lease.run_id] == [1, 2, 3, 4] * 2
    await verified_log(database, lease.run_id)


class AwayBus(RecordingBus):
    """A remote bus that is not there."""

    async def publish(self, batch: Sequence[Published]) -> None:
        self.batches += 1
        raise BusUnavailable("nobody answers")


async def test_a_remote_bus_that_is_away_does_not_hold_publication_up(
    database: Database, runs: Runs, leases: Leases, events: Events, outbox: Outbox, told: Told
) -> None:
    """The own process is handed everything, all of it is marked, and nothing fails or waits (ADR 13)."""
    many = await logs(runs, leases, events, 3, 3)
    remote = AwayBus()
    bus = LocalFirst(remote)
    heard: dict[str, list[int]] = {}
    bus.attach(lambda batch: heard.setdefault(batch.run_id, []).extend(each.seq for each in batch.events), lambda: None)
    for lease in many:
        await bus.subscribe(lease.run_id)
    publisher = Publisher(outbox, bus, Telemetry([told]), bus_timeout_seconds=PATIENCE_SECONDS)
    await publish_all(publisher)
    assert remote.batches >= 1
    assert heard == {lease.run_id: [1, 2, 3] for lease in many}
    assert await backlog(database) == 0
    for lease in many:
        await verified_log(database, lease.run_id)
    assert published_count(told) == 9


async def test_a_bus_that_fails_as_a_whole_loses_nothing(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus
) -> None:
    """When not even the own process can be told: each turn says so, the hints stay, and later everything goes out."""
    many = await logs(runs, leases, events, 3, 3)
    bus.refused = {lease.run_id for lease in many}
    publisher.hint(bus.refused)
    for _ in range(3):
        with pytest.raises(BusUnavailable):
            await publisher.publish_once()
        with pytest.raises(BusUnavailable):
            await publisher.sweep_once()
    assert await backlog(database) == 9
    bus.refused = set()
    while await publisher.publish_once():
        pass
    assert bus.received == {lease.run_id: [1, 2, 3] for lease in many}


async def test_a_bus_that_hangs_is_given_up_and_its_rows_are_free(
    database: Database, runs: Runs, leases: Leases, events: Events, outbox: Outbox, bus: RecordingBus
) -> None:
    """A call under a row lock has an end, and afterwards another publisher takes the run."""
    (lease,) = await logs(runs, leases, events, 1, 3)

    async def hang() -> None:
        await asyncio.Event().wait()

    bus.before = hang
    hanging = Publisher(outbox, bus, Telemetry(), bus_timeout_seconds=0.01)
    with pytest.raises(BusUnavailable, match=r"within 0\.01 s"):
        await hanging.sweep_once()
    assert bus.received == {}
    other = RecordingBus()
    await Publisher(outbox, other, Telemetry(), bus_timeout_seconds=PATIENCE_SECONDS).sweep_once()
    assert other.received == {lease.run_id: [1, 2, 3]}


async def test_a_gap_stops_its_run_and_is_told_once_while_the_others_go_on(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus, told: Told
) -> None:
    """Somebody deleted a row: nothing behind it is published, for a reader could not tell it from a loss."""
    broken, whole = await logs(runs, leases, events, 2, 6, ends=False)
    await execute(database, "delete from tailrace.run_events where run_id = $1 and seq = 4", broken.run_id)
    for _ in range(3):
        publisher.hint([broken.run_id, whole.run_id])
        await publisher.publish_once()
        await publisher.sweep_once()
    assert bus.received == {broken.run_id: [1, 2, 3], whole.run_id: [1, 2, 3, 4, 5, 6]}
    assert told.of(OutboxGap) == [OutboxGap(broken.run_id, expected_seq=4, found_seq=5)]
    assert (await runs.get(broken.run_id)).next_seq == 4
    await execute(
        database,
        "insert into tailrace.run_events (run_id, seq, ts, type, source, fn)"
        " values ($1, 4, 1, 'DebugTrace', 'worker', 'x')",
        broken.run_id,
    )
    await publish_all(publisher)
    assert bus.received[broken.run_id] == [1, 2, 3, 4, 5, 6]


async def test_a_frozen_publisher_is_cut_and_another_one_publishes(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus
) -> None:
    """A process that stops in the middle of its pass holds the row for TAILRACE_TX_TIMEOUT_MS and no longer."""
    (lease,) = await logs(runs, leases, events, 1, 3)
    async with opened(Database(database.url, schema=database.schema, tx_timeout_ms=PATIENCE_MS)) as other:
        frozen = contextlib.AsyncExitStack()
        transaction = await frozen.enter_async_context(Outbox(other).transaction())
        (taken,) = await transaction.take(None, [], runs_max=10, events_max=10)
        await publisher.sweep_once()
        assert bus.received == {}
        # Waits, as no publisher does, until the row is free: that is the moment at which Postgres cuts the session.
        waiting = asyncio.create_task(
            execute(database, "select from tailrace.run_outbox where run_id = $1 for update", lease.run_id)
        )
        await until_waiting_for_a_lock(database)
        # The bound begins only now that all has been seen that the frozen one keeps from others.
        await shorten_idle(transaction)
        await waiting
        await publisher.sweep_once()
        assert bus.received == {lease.run_id: [1, 2, 3]}
        with pytest.raises((DatabaseUnavailable, asyncpg.PostgresError, asyncpg.InterfaceError)):
            await transaction.advance([taken])
        with contextlib.suppress(DatabaseUnavailable, asyncpg.PostgresError, asyncpg.InterfaceError):
            await frozen.aclose()
    await verified_log(database, lease.run_id)


async def test_a_run_whose_end_is_published_is_not_looked_at_any_more(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher
) -> None:
    """Looking for work costs what is in progress: a run is open until its terminal event is out, and not after."""
    ended = await logs(runs, leases, events, 5, 3)
    (going_on,) = await logs(runs, leases, events, 1, 3, ends=False)
    cancelled = await queued(runs)
    await runs.cancel(cancelled, 1)
    assert await value(database, "select count(*) from tailrace.run_outbox where open") == 7
    await publish_all(publisher)
    open_runs = await value(database, "select array_agg(run_id) from tailrace.run_outbox where open")
    assert open_runs == [going_on.run_id]
    assert len(ended) == 5


async def test_a_terminal_event_that_is_not_in_the_pass_leaves_the_run_open(
    database: Database, runs: Runs, leases: Leases, events: Events, outbox: Outbox
) -> None:
    """Only what was handed over counts, not what the log holds beyond it."""
    await logs(runs, leases, events, 1, 5)
    async with outbox.transaction() as transaction:
        await transaction.advance(await transaction.take(None, [], runs_max=1, events_max=4))
    assert await value(database, "select open from tailrace.run_outbox")
    async with outbox.transaction() as transaction:
        (rest,) = await transaction.take(None, [], runs_max=1, events_max=4)
        assert [event.type for event in rest.events] == ["RunFinished"]
        assert await transaction.advance([rest]) == []
    assert not await value(database, "select open from tailrace.run_outbox")


async def test_nothing_uncommitted_reaches_the_bus(
    database: Database, runs: Runs, leases: Leases, publisher: Publisher, bus: RecordingBus
) -> None:
    """Invariant 3: an append that is not committed yet is not there for the outbox."""
    lease = await started(runs, leases)
    await publish_all(publisher)
    async with database.transaction() as connection:
        await connection.execute(
            f"""
            with run as (update "{database.schema}".runs set last_seq = 2 where id = $1)
            insert into "{database.schema}".run_events (run_id, seq, ts, type, source, fn)
            values ($1, 2, 1, 'DebugTrace', 'worker', 'f')
            """,
            lease.run_id,
        )
        publisher.hint([lease.run_id])
        await publisher.publish_once()
        await publisher.sweep_once()
        assert bus.received == {lease.run_id: [1]}
    await publish_all(publisher)
    assert bus.received == {lease.run_id: [1, 2]}


async def test_a_flooding_run_does_not_starve_the_others(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus
) -> None:
    """Each pass takes some of it and all of the small ones; the longest unattended come first."""
    (flood,) = await logs(runs, leases, events, 1, 5 * module.RUN_MAX_EVENTS)
    small = await logs(runs, leases, events, 20, 2)
    await publisher.sweep_once()
    assert len(bus.received[flood.run_id]) == module.RUN_MAX_EVENTS
    assert {lease.run_id: bus.received.get(lease.run_id) for lease in small} == {
        lease.run_id: [1, 2] for lease in small
    }


async def test_backlog_and_laggards_say_what_waits(
    database: Database, runs: Runs, leases: Leases, events: Events, outbox: Outbox, publisher: Publisher
) -> None:
    """Largest first; nothing when all is out."""
    (long,) = await logs(runs, leases, events, 1, 9)
    (short,) = await logs(runs, leases, events, 1, 3)
    found = await outbox.laggards(10)
    assert [(lag.run_id, lag.next_seq, lag.last_seq, lag.backlog) for lag in found] == [
        (long.run_id, 1, 9, 9), (short.run_id, 1, 3, 3),
    ]  # fmt: skip
    assert [lag.run_id for lag in await outbox.laggards(1)] == [long.run_id]
    waiting, age = await outbox.backlog()
    assert waiting == 12
    assert age is not None
    await publish_all(publisher)
    assert await outbox.laggards(10) == []
    assert await outbox.backlog() == (0, None)
    assert await claim(leases) == []


async def test_what_this_process_has_committed_is_published_without_reading_it(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus, told: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The runs' cursors stand right before it; the bus gets what lies in Postgres, down to the last byte."""
    many = await logs(runs, leases, events, 3, 2, ends=False)
    await publish_all(publisher)
    odd = draft.custom("e\x1dr\x1e\x1f\u2028", {"k": "\x1f\n"}, NOW_MS, max_bytes=100)
    appends = [add(lease, 3, [odd, *traces(1)]) for lease in many]
    await events.append(appends)
    publisher.committed(appends)
    monkeypatch.delattr(OutboxTransaction, "take")
    assert not await publisher.hand_over_once()
    assert bus.received == {lease.run_id: [1, 2, 3, 4] for lease in many}
    assert published_count(told) == 6
    assert not await publisher.publish_once()
    assert bus.received == {lease.run_id: [1, 2, 3, 4] for lease in many}
    assert published_count(told) == 12
    for lease in many:
        log = await verified_log(database, lease.run_id)
        assert (log[2].name, log[2].data) == (odd.name, odd.data)
        assert log == bus.events[lease.run_id]


async def committed(
    events: Events, publisher: Publisher, lease: Lease, first_seq: int, *, count: int = 1, ends: bool = False
) -> None:
    """Append events behind the others, as the process of this publisher."""
    last = [draft.run_finished(NOW_MS)] if ends else traces(count)
    append = add(lease, first_seq, last, state=RunState.FINISHED if ends else None)
    await events.append([append])
    publisher.committed([append])


async def test_what_was_committed_behind_an_unpublished_event_is_published_behind_it(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus
) -> None:
    """The cursor stands elsewhere, so the run is read from the database: nothing is passed over."""
    (lease,) = await logs(runs, leases, events, 1, 4, ends=False)
    await committed(events, publisher, lease, 5, count=2)
    assert not await publisher.hand_over_once()
    assert bus.received == {}
    while await publisher.publish_once():
        pass
    assert bus.received == {lease.run_id: [1, 2, 3, 4, 5, 6]}
    await verified_log(database, lease.run_id)


async def test_what_was_committed_while_the_database_goes_away_is_published_later(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus
) -> None:
    """The pass fails before its commit; the next ones read what the first had in its hands."""
    (lease,) = await logs(runs, leases, events, 1, 2, ends=False)
    await publish_all(publisher)
    await committed(events, publisher, lease, 3, count=2)
    bus.refused = {lease.run_id}
    with pytest.raises(BusUnavailable):
        await publisher.hand_over_once()
    bus.refused = set()
    while await publisher.publish_once():
        pass
    assert bus.received[lease.run_id] == [1, 2, 3, 4]
    await verified_log(database, lease.run_id)


async def test_events_are_handed_over_while_a_pass_is_held_up(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus, told: Told
) -> None:
    """Somebody's lock on a row holds up the marks, not the events behind them, which one later pass marks together."""
    (lease,) = await logs(runs, leases, events, 1, 2, ends=False)
    await publish_all(publisher)
    await committed(events, publisher, lease, 3)
    await publisher.hand_over_once()
    async with database.transaction() as connection:
        await connection.execute(
            f'select from "{database.schema}".run_events where run_id = $1 and seq = 3 for update', lease.run_id
        )
        marking = asyncio.create_task(publisher.publish_once())
        await until_waiting_for_a_lock(database)
        for seq in (4, 5):
            await committed(events, publisher, lease, seq)
            await publisher.hand_over_once()
        assert bus.received[lease.run_id] == [1, 2, 3, 4, 5]
        assert await backlog(database) == 3
    await marking
    await publisher.publish_once()
    assert await backlog(database) == 0
    assert bus.received[lease.run_id] == [1, 2, 3, 4, 5]
    assert published_count(told) == 5
    await verified_log(database, lease.run_id)


async def test_a_sweep_leaves_alone_what_is_handed_over_and_not_yet_marked(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus
) -> None:
    """It would hand it over once more, and move the cursor from under the marks."""
    (lease,) = await logs(runs, leases, events, 1, 2, ends=False)
    await publish_all(publisher)
    await committed(events, publisher, lease, 3)
    await publisher.hand_over_once()
    await publish_all(publisher)
    assert await backlog(database) == 1
    await publisher.publish_once()
    assert await backlog(database) == 0
    assert bus.received[lease.run_id] == [1, 2, 3]


async def test_the_end_of_a_run_goes_out_with_its_marks_and_those_before_it(
    database: Database, runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus
) -> None:
    """Never ahead of them: who sees a stream end finds the run published."""
    (lease,) = await logs(runs, leases, events, 1, 2, ends=False)
    await publish_all(publisher)
    for seq in (3, 4):
        await committed(events, publisher, lease, seq, ends=seq == 4)
        await publisher.hand_over_once()
    assert bus.received[lease.run_id] == [1, 2, 3]
    assert await backlog(database) == 2
    await publisher.publish_once()
    assert bus.received[lease.run_id] == [1, 2, 3, 4]
    assert await backlog(database) == 0
    assert not await value(database, "select open from tailrace.run_outbox")
    await verified_log(database, lease.run_id)


async def test_a_publisher_that_comes_in_between_costs_a_repetition_and_nothing_else(
    database: Database, runs: Runs, leases: Leases, events: Events, outbox: Outbox, publisher: Publisher,
    bus: RecordingBus,
) -> None:  # fmt: skip
    """Both hand the same events over, in order, and one marks them; what follows goes its way."""
    (lease,) = await logs(runs, leases, events, 1, 2, ends=False)
    await publish_all(publisher)
    other = Publisher(outbox, bus, Telemetry(), bus_timeout_seconds=PATIENCE_SECONDS)
    for seq in (3, 4):
        await committed(events, publisher, lease, seq)
        await publisher.hand_over_once()
    await publish_all(other)
    for seq in (5, 6):
        await committed(events, publisher, lease, seq, ends=seq == 6)
        await publisher.hand_over_once()
    while await publisher.publish_once():
        pass
    assert first_times(bus.received[lease.run_id]) == [1, 2, 3, 4, 5, 6]
    assert await backlog(database) == 0
    await verified_log(database, lease.run_id)


async def test_what_is_handed_over_ahead_of_its_marks_is_bounded(
    runs: Runs, leases: Leases, events: Events, publisher: Publisher, bus: RecordingBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Postgres does not mark, events wait; the next pass lets them go on."""
    monkeypatch.setattr(owed, "OWED_MAX_EVENTS", 2)
    (lease,) = await logs(runs, leases, events, 1, 2, ends=False)
    await publish_all(publisher)
    for seq in (3, 4, 5):
        await committed(events, publisher, lease, seq)
        assert not await publisher.hand_over_once()
    assert bus.received[lease.run_id] == [1, 2, 3, 4]
    publisher.news.clear()
    await publisher.publish_once()
    assert publisher.news.is_set()
    await publisher.hand_over_once()
    assert bus.received[lease.run_id] == [1, 2, 3, 4, 5]


async def test_a_run_that_another_publisher_took_is_read_until_it_joins_what_is_in_hand(
    database: Database, runs: Runs, leases: Leases, events: Events, outbox: Outbox, bus: RecordingBus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Passes smaller than what was handed over meanwhile: the rest waits for them, and then goes ahead as before."""
    monkeypatch.setattr(module, "RUN_MAX_EVENTS", 2)
    publisher, other = (Publisher(outbox, bus, Telemetry(), bus_timeout_seconds=PATIENCE_SECONDS) for _ in range(2))
    (lease,) = await logs(runs, leases, events, 1, 2, ends=False)
    await publish_all(publisher)
    await committed(events, publisher, lease, 3)
    await publish_all(other)
    for seq in range(4, 13):
        await committed(events, publisher, lease, seq)
        if seq in (4, 6, 8):
            await publisher.hand_over_once()
    while await publisher.publish_once():
        pass
    assert first_times(bus.received[lease.run_id]) == list(range(1, 10))
    while await publisher.hand_over_once():
        pass
    assert first_times(bus.received[lease.run_id]) == list(range(1, 13))
    while await publisher.publish_once():
        pass
    assert await backlog(database) == 0
    await verified_log(database, lease.run_id)
