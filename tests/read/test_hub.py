"""The hub: attach, feed, let go; on a real database, over a bus that the test holds in its hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tailrace.bus.bus import Published
from tailrace.bus.memory import MemoryBus
from tailrace.errors import BusUnavailable, DatabaseUnavailable, RunNotFound
from tailrace.read.follow import follow
from tailrace.read.hub import FILL_MAX_EVENTS, FILL_MAX_RUNS, Hub, Watched
from tailrace.store.database import Database
from tailrace.store.events import Events
from tests.patience import PATIENCE_SECONDS, tried_again
from tests.read_support import DeafBus, HandWrittenRun, HookedEvents, LossyBus, execute, publish_all


@pytest.fixture
def hooked(database: Database) -> HookedEvents:
    return HookedEvents(database)


async def seqs_upto(watched: Watched, events: Events, position: int, last: int) -> list[int]:
    """Follow without any heartbeat until ``last`` and return the last seq of each chunk's events, one by one."""
    found: list[int] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for chunk in follow(watched, events, position, heartbeat_seconds=3600):
            found += [int(line.removeprefix(b"id: ")) for line in chunk.text.split(b"\n") if line.startswith(b"id: ")]
            if chunk.last_seq >= last:
                break
    return found


async def settle(hub: Hub) -> None:
    """Perform what the hub's duties would, until there is nothing left to fill."""
    while await hub.fill_once():
        pass


async def test_what_is_published_before_the_subscription_comes_from_the_database(
    database: Database, hooked: HookedEvents
) -> None:
    """The tail query follows the subscription, so it sees everything that the subscription did not."""
    run = await HandWrittenRun.start(database, "r")
    bus = MemoryBus()
    hub = Hub(bus, hooked)
    await run.append_many(4)
    await publish_all(database, bus)
    async with hub.watch("r") as (watched, tail):
        assert (tail.published_seq, tail.last_seq, tail.ended) == (5, 5, False)
        assert await seqs_upto(watched, hooked, 0, 5) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("moment", ["before_tails", "after_tails", "after_page"])
@pytest.mark.parametrize("carries_events", [True, False], ids=["with-events", "doorbell"])
async def test_what_is_published_while_a_client_attaches_is_neither_lost_nor_doubled(
    database: Database, hooked: HookedEvents, moment: str, carries_events: bool
) -> None:
    """Between the subscription and the tail query, between the query and its answer, and in the midst of backfill."""
    run = await HandWrittenRun.start(database, "r")
    bus = MemoryBus()
    hub = Hub(bus, hooked)
    await run.append_many(4)
    await publish_all(database, bus)

    async def meanwhile() -> None:
        await run.append_many(3)
        if carries_events:
            await publish_all(database, bus)
        else:
            await publish_all(database, DeafBus())
            await bus.publish([Published("r", run.last_seq)])

    setattr(hooked, moment, meanwhile)
    async with hub.watch("r") as (watched, _):
        following = asyncio.create_task(seqs_upto(watched, hooked, 0, 8))
        filling = asyncio.create_task(_fill_when_asked(hub))
        assert await following == [1, 2, 3, 4, 5, 6, 7, 8]
        filling.cancel()
        await asyncio.wait({filling})


async def test_a_gap_in_the_live_feed_is_filled_from_the_database(database: Database, events: Events) -> None:
    """The bus lost 3 and 4 and brought 5: nobody sees 5 before 3 and 4."""
    run = await HandWrittenRun.start(database, "r")
    bus = LossyBus()
    hub = Hub(bus, events)
    await publish_all(database, bus)
    async with hub.watch("r") as (watched, _):
        await run.append_many(1)
        await publish_all(database, bus)
        await bus.let_through(bus.kept[-1])
        await run.append_many(2)
        await publish_all(database, bus)  # lost
        await run.append_many(1)
        await publish_all(database, bus)
        await bus.let_through(bus.kept[-1])
        assert watched.channel.missing == (2, 5)
        assert [frame.seq for frame in watched.channel.after(1) or ()] == [2]
        assert hub.fill.is_set()
        await settle(hub)
        assert await seqs_upto(watched, events, 1, 5) == [2, 3, 4, 5]
        assert watched.channel.missing is None


async def test_a_lost_last_message_is_found_by_the_tail_check(database: Database, events: Events) -> None:
    """Nothing follows a terminal event that could show the gap: the comparison with the database does."""
    run = await HandWrittenRun.start(database, "r")
    hub = Hub(DeafBus(), events)
    async with hub.watch("r") as (watched, _):
        await run.finish()
        await publish_all(database, DeafBus())
        following = asyncio.create_task(seqs_upto(watched, events, 0, 2))
        assert not await hub.check_tails_once()
        await settle(hub)
        assert await following == [1, 2]


async def test_a_channel_made_while_others_settle_is_given_its_own_time(database: Database, events: Events) -> None:
    """What was handed over before it came, and marked only after the others were compared, is found without a tail
    check.
    """
    runs = [await HandWrittenRun.start(database, name) for name in ("early", "late")]
    hub = Hub(DeafBus(), events)
    await publish_all(database, DeafBus())
    async with hub.watch("early"):
        first = asyncio.create_task(hub.check_new_once())
        await asyncio.sleep(0)
        async with hub.watch("late") as (watched, _):
            await first
            await runs[1].append_many(1)
            await publish_all(database, DeafBus())
            await hub.check_new_once()
            await settle(hub)
            assert await seqs_upto(watched, events, 1, 2) == [2]


async def test_what_is_asked_for_while_postgres_is_away_is_not_remembered(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many runs are named, nothing is left of them to compare later."""

    async def away(*_: object) -> None:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(Events, "tails", away)
    hub = Hub(DeafBus(), events)
    for number in range(3):
        with pytest.raises(DatabaseUnavailable):
            await hub.attach(f"r{number}")
    assert hub._new == set()


async def test_while_the_bus_hears_nothing_the_hub_looks_by_itself(database: Database, events: Events) -> None:
    """Between two heartbeats too, and not while the bus brings what there is."""
    run = await HandWrittenRun.start(database, "r")
    bus = DeafBus()
    hub = Hub(bus, events)
    async with hub.watch("r") as (watched, _):
        await run.append_many(3)
        await publish_all(database, DeafBus())
        await hub.poll_once()
        assert watched.channel.head == 0
        bus.hearing = False
        await hub.poll_once()
        assert watched.channel.head == 4
        await settle(hub)
        assert await seqs_upto(watched, events, 0, 4) == [1, 2, 3, 4]


async def test_a_fill_that_the_bus_overtook_does_not_forget_what_is_still_missing(
    database: Database, hooked: HookedEvents
) -> None:
    """While the database was read, the bus brought that stretch itself and news beyond it: the hub reads on at once."""
    run = await HandWrittenRun.start(database, "r")
    bus = LossyBus()
    hub = Hub(bus, hooked)
    await publish_all(database, bus)
    async with hub.watch("r") as (watched, _):
        await run.append_many(5)
        await publish_all(database, bus)
        stretch = bus.kept[-1]
        await run.append_many(5)
        await publish_all(database, bus)
        beyond = Published("r", bus.kept[-1].last_seq)

        async def overtake() -> None:
            await bus.let_through(stretch)
            await bus.let_through(beyond)

        hooked.after_of_many = overtake
        await bus.let_through(Published("r", stretch.last_seq))
        await settle(hub)
        assert watched.channel.missing is None
        assert await seqs_upto(watched, hooked, 0, 11) == list(range(1, 12))


async def test_a_row_that_is_gone_does_not_make_the_hub_ask_for_ever(database: Database, events: Events) -> None:
    """Somebody deleted a row: the stream waits in front of the gap, and so does the hub, until the next news."""
    run = await HandWrittenRun.start(database, "r")
    hub = Hub(DeafBus(), events)
    async with hub.watch("r") as (watched, _):
        await run.append_many(5)
        await publish_all(database, DeafBus())
        await execute(database, "delete from tailrace.run_events where seq = 4")
        await hub.check_tails_once()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await settle(hub)
        assert await seqs_upto(watched, events, 0, 3) == [1, 2, 3]
        assert watched.channel.missing == (3, 6)


async def test_more_runs_and_events_than_one_fill_takes_are_filled(database: Database, events: Events) -> None:
    """A fill is bounded in runs and in events; it is repeated until nothing is missing."""
    hub = Hub(DeafBus(), events)
    runs = [await HandWrittenRun.start(database, f"r{number}") for number in range(FILL_MAX_RUNS + 2)]
    await publish_all(database, DeafBus())
    async with _all_watched(hub, [run.id for run in runs]) as watched:
        for run in runs:
            await run.append_many(FILL_MAX_EVENTS + 5)
        await publish_all(database, DeafBus())
        await hub.check_tails_once()
        await settle(hub)
        for each in watched:
            assert each.channel.missing is None
            assert await seqs_upto(each, events, 0, FILL_MAX_EVENTS + 6) == list(range(1, FILL_MAX_EVENTS + 7))


async def test_the_last_watcher_takes_the_channel_with_it(database: Database, events: Events) -> None:
    """A run that nobody watches costs the hub nothing and its bus no subscription."""
    await HandWrittenRun.start(database, "r")
    bus = MemoryBus()
    hub = Hub(bus, events)
    async with hub.watch("r") as (one, _):
        async with hub.watch("r") as (other, _):
            assert one is other
            assert hub.watched_runs == 1
        assert bus._watched == {"r"}
    assert hub.watched_runs == 0
    assert bus._watched == set()


async def test_watchers_that_come_and_go_at_once_share_one_subscription(database: Database, events: Events) -> None:
    """Fifty at a time, over a bus that takes its time: subscribe and unsubscribe strictly take turns."""
    await HandWrittenRun.start(database, "r")
    bus = _SlowBus()
    hub = Hub(bus, events)

    async def visit() -> None:
        async with hub.watch("r") as (watched, _):
            assert bus.subscribed
            assert not watched.channel.closed

    async with asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(visit())
    assert hub.watched_runs == 0
    assert not bus.subscribed


async def test_a_run_that_does_not_exist_leaves_nothing_behind(events: Events) -> None:
    """Asking for unknown runs must not grow the hub."""
    bus = MemoryBus()
    hub = Hub(bus, events)
    with pytest.raises(RunNotFound):
        async with hub.watch("nobody"):
            pass
    assert hub.watched_runs == 0
    assert bus._watched == set()


async def test_a_bus_that_cannot_subscribe_leaves_nothing_behind(database: Database, events: Events) -> None:
    """The client is asked to come again, and the next one may attach."""
    await HandWrittenRun.start(database, "r")
    bus = _SlowBus()
    hub = Hub(bus, events)
    bus.fails = True
    with pytest.raises(BusUnavailable):
        async with hub.watch("r"):
            pass
    assert hub.watched_runs == 0
    bus.fails = False
    async with hub.watch("r"):
        assert hub.watched_runs == 1


async def test_a_database_that_is_away_while_attaching_leaves_nothing_behind(
    database: Database, events: Events
) -> None:
    """As above, one step later: the subscription is given back."""
    bus = MemoryBus()
    hub = Hub(bus, events)
    await database.close()
    try:
        with pytest.raises(DatabaseUnavailable):
            async with hub.watch("r"):
                pass
    finally:
        await tried_again(database.open)
    assert hub.watched_runs == 0
    assert bus._watched == set()


async def test_a_client_that_vanishes_while_attaching_leaves_nothing_behind(
    database: Database, hooked: HookedEvents
) -> None:
    """Its task is cancelled inside the tail query."""
    await HandWrittenRun.start(database, "r")
    bus = MemoryBus()
    hub = Hub(bus, hooked)
    attaching = asyncio.create_task(_watch_for_ever(hub))

    async def vanish() -> None:
        attaching.cancel()
        await asyncio.sleep(0)

    hooked.before_tails = vanish
    await asyncio.wait({attaching})
    assert attaching.cancelled()
    assert hub.watched_runs == 0
    assert bus._watched == set()


async def test_a_removed_run_ends_its_streams(database: Database, events: Events) -> None:
    """Retention removed the run: its watchers are not left waiting for ever."""
    await HandWrittenRun.start(database, "r")
    hub = Hub(DeafBus(), events)
    async with hub.watch("r") as (watched, _):
        await execute(database, "delete from tailrace.runs")
        await hub.check_tails_once()
        assert watched.channel.closed
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert [chunk async for chunk in follow(watched, events, 1, heartbeat_seconds=3600)] == []


async def test_a_closing_hub_ends_every_stream_and_lets_none_begin(database: Database, events: Events) -> None:
    """On SIGTERM streams end at once, those that come in the same moment too."""
    await HandWrittenRun.start(database, "r")
    await publish_all(database, DeafBus())
    hub = Hub(DeafBus(), events)
    async with hub.watch("r") as (watched, _):
        waiting = asyncio.create_task(_chunks(watched, events, 1))
        await asyncio.sleep(0)
        hub.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await waiting == []
    async with hub.watch("r") as (late, _):
        assert await _chunks(late, events, 0) == []


class _SlowBus(DeafBus):
    """Takes a turn of the loop for each change and refuses what is not in order."""

    def __init__(self) -> None:
        super().__init__()
        self.subscribed = False
        self.fails = False

    async def subscribe(self, run_id: str) -> None:
        await asyncio.sleep(0)
        if self.fails:
            raise BusUnavailable("away")
        assert not self.subscribed, "subscribed twice"
        self.subscribed = True

    async def unsubscribe(self, run_id: str) -> None:
        await asyncio.sleep(0)
        assert self.subscribed, "unsubscribed without a subscription"
        self.subscribed = False


async def _fill_when_asked(hub: Hub) -> None:
    while True:
        await hub.fill.wait()
        hub.fill.clear()
        await settle(hub)


async def _watch_for_ever(hub: Hub) -> None:
    async with hub.watch("r"):
        await asyncio.Event().wait()


async def _chunks(watched: Watched, events: Events, position: int) -> list[bytes]:
    return [chunk.text async for chunk in follow(watched, events, position, heartbeat_seconds=3600)]


@asynccontextmanager
async def _all_watched(hub: Hub, run_ids: list[str]) -> AsyncIterator[list[Watched]]:
    async with AsyncExitStack() as stack:
        yield [(await stack.enter_async_context(hub.watch(run_id)))[0] for run_id in run_ids]
