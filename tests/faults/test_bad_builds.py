"""The known-bad builds: each breaks a promise that the code as it is keeps, and the campaign's checks see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from faults import builds
from faults.checks import fence_violations, stream_violations
from tailrace.bus.bus import OnLoss, OnPublished, Published
from tailrace.bus.memory import MemoryBus
from tailrace.errors import BusUnavailable
from tailrace.read.follow import follow
from tailrace.read.hub import Hub
from tailrace.settings import Settings
from tailrace.store import queries
from tailrace.store.database import Database
from tailrace.store.events import Events, RunAppend
from tailrace.store.leases import Leases
from tailrace.store.outbox import Outbox
from tailrace.store.runs import RunRequest, Runs
from tailrace.telemetry import Telemetry
from tailrace.write.publisher import Publisher
from tests.patience import PATIENCE_SECONDS
from tests.read_support import HandWrittenRun, HookedEvents, custom, execute, publish_all, reading

# A bad build often shows by nothing happening; the good one takes milliseconds.
NOTHING_SECONDS = 1.0

Build = Callable[[str], None]


@pytest.fixture(params=["as-it-is", "bad"])
def bad(request: pytest.FixtureRequest) -> bool:
    """Whether the known mistake is in the code."""
    is_bad: bool = request.param == "bad"
    return is_bad


@pytest.fixture
def build(bad: bool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Build]:
    """Put a known mistake into the running code, in the variant that is bad."""

    def put(name: str) -> None:
        if bad:
            for owner, attribute, replacement in builds.BUILDS[name]():
                monkeypatch.setattr(owner, attribute, replacement)

    yield put
    queries.query.cache_clear()


async def followed(hub: Hub, events: Events, run_id: str, seconds: float) -> list[int]:
    """Follow a run to its end, with what fills the hub but no tail check; return the seqs that came in time."""
    seqs: list[int] = []
    try:
        async with asyncio.timeout(seconds), hub.watch(run_id) as (watched, _), asyncio.TaskGroup() as tasks:
            filling = tasks.create_task(_fill(hub))
            async for chunk in follow(watched, events, 0, heartbeat_seconds=3600):
                seqs += [int(line[4:]) for line in chunk.text.split(b"\n") if line.startswith(b"id: ")]
            filling.cancel()
    except TimeoutError:
        pass
    return seqs


async def _fill(hub: Hub) -> None:
    while True:
        await hub.fill.wait()
        hub.fill.clear()
        while await hub.fill_once():
            pass


async def test_backfill_before_subscribe_loses_what_is_published_in_between(
    build: Build, bad: bool, database: Database
) -> None:
    """The run ends while a client attaches: after the database was asked, or before, with nothing to follow."""
    run = await HandWrittenRun.start(database, "r")
    bus = MemoryBus()
    events = HookedEvents(database)
    build("backfill-before-subscribe")
    hub = Hub(bus, events)
    await publish_all(database, bus)

    async def meanwhile() -> None:
        await run.finish()
        await publish_all(database, bus)

    events.after_tails = meanwhile
    seqs = await followed(hub, events, "r", NOTHING_SECONDS if bad else PATIENCE_SECONDS)
    found = {violation.kind for violation in stream_violations("r", "client", 2, seqs)}
    assert found == ({"lost"} if bad else set())


async def test_without_the_epoch_check_a_worker_that_lost_its_lease_appends(
    build: Build, bad: bool, database: Database
) -> None:
    """Between the take-over and the new worker's first event, the seq alone vouches for the old one."""
    build("no-epoch-check")
    run = await HandWrittenRun.start(database, "r")
    await execute(database, "update tailrace.runs set lease_until = clock_timestamp() - interval '1 second'")
    (taken,) = await Leases(database).claim(worker="new", agents=["by-hand:r"], limit=1, lease_seconds=60)
    heads = {(taken.run_id, taken.epoch): taken.last_seq}
    await Events(database).append([RunAppend("r", taken.epoch - 1, run.last_seq + 1, [custom()])])
    async with database.connection() as connection:
        rows = await connection.fetch(f'select run_id, seq, epoch from "{database.schema}".run_events')
    assert {violation.kind for violation in fence_violations(heads, map(dict, rows))} == ({"fencing"} if bad else set())


class FailsOnce:
    """A bus that refuses the first batch, as one that is being restarted does, and remembers the others."""

    def __init__(self) -> None:
        self.refused = False
        self.seqs: list[int] = []

    @property
    def hearing(self) -> bool:
        return True

    def attach(self, on_published: OnPublished, on_loss: OnLoss) -> None: ...

    async def publish(self, batch: Sequence[Published]) -> None:
        if not self.refused:
            self.refused = True
            raise BusUnavailable("not yet")
        self.seqs += [event.seq for published in batch for event in published.events]

    async def subscribe(self, run_id: str) -> None: ...

    async def unsubscribe(self, run_id: str) -> None: ...

    async def check(self) -> None: ...


async def test_mark_before_publish_never_hands_over_what_was_marked_before_a_failure(
    build: Build, bad: bool, database: Database
) -> None:
    """Everything that is marked published was handed to the bus at least once."""
    build("mark-before-publish")
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(3)
    bus = FailsOnce()
    publisher = Publisher(Outbox(database), bus, Telemetry(), bus_timeout_seconds=5)
    with pytest.raises(BusUnavailable):
        await publisher.sweep_once()
    await publisher.sweep_once()
    assert (await Events(database).tails(["r"]))["r"].published_seq == 4
    found = {violation.kind for violation in stream_violations("r", "bus", 4, bus.seqs)}
    assert found == ({"lost"} if bad else set())


async def test_resume_off_by_one_sends_an_event_again(
    build: Build, bad: bool, settings: Callable[..., Settings]
) -> None:
    """A client that has processed 3 gets 4 next."""
    build("resume-off-by-one")
    async with reading(settings(heartbeat_seconds=0.2)) as server:
        run = await server.run()
        await run.append_many(4)
        await run.finish()
        await server.publish()
        seqs = [1, 2, 3, *await server.all_of(last_event_id="3")]
    found = {violation.kind for violation in stream_violations("r", "client", 6, seqs)}
    assert found == ({"duplicated"} if bad else set())


async def test_without_the_tail_check_a_lost_last_message_leaves_the_stream_open(
    build: Build, bad: bool, settings: Callable[..., Settings]
) -> None:
    """Nothing follows a terminal event that could show the gap."""
    build("no-tail-check")
    async with reading(settings(heartbeat_seconds=0.2)) as server:
        run = await server.run()
        await server.publish()
        async with server.stream() as answer:
            assert await answer.upto(1) == [1]
            await run.finish()
            await server.publish_silently()
            try:
                async with asyncio.timeout(NOTHING_SECONDS if bad else PATIENCE_SECONDS):
                    seqs = await answer.seqs()
            except TimeoutError:
                seqs = []
    found = {violation.kind for violation in stream_violations("r", "client", 2, [1, *seqs])}
    assert found == ({"lost"} if bad else set())


async def test_order_by_time_sends_the_past_after_the_future(build: Build, bad: bool, database: Database) -> None:
    """Two workers' clocks differ: what the second one emits is older than what the first one did."""
    build("order-by-time")
    await Runs(database).create(RunRequest("r", "agent", None, 5_000))
    (lease,) = await Leases(database).claim(worker="w", agents=["agent"], limit=1, lease_seconds=60)
    drafts = [custom(ts=9_000), custom(ts=8_000), custom(ts=7_000)]
    await Events(database).append([RunAppend("r", lease.epoch, 2, drafts)])
    await publish_all_by_seq(database)
    page = await Events(database).page("r", after=0, upto=4, limit=10, max_bytes=1 << 20)
    found = {violation.kind for violation in stream_violations("r", "page", 4, [event.seq for event in page])}
    assert found == ({"out-of-order"} if bad else set())


async def publish_all_by_seq(database: Database) -> None:
    """Mark everything published: what the outbox makes of a wrong order is not the point here."""
    await execute(database, "update tailrace.run_events set published_at = clock_timestamp()")
    await execute(database, "update tailrace.run_outbox set next_seq = 5")


def test_every_known_bad_build_has_its_twin_here() -> None:
    """A build that nothing catches would say nothing."""
    text = Path(__file__).read_text()
    assert [name for name in builds.BUILDS if f'build("{name}")' not in text] == []
