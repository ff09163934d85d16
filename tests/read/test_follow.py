"""Following: the ring where it reaches, the database where it does not, and nothing held in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tailrace.bus.memory import MemoryBus
from tailrace.read import channel as channels
from tailrace.read.follow import follow
from tailrace.read.frame import PING, Chunk
from tailrace.read.hub import Hub
from tailrace.read.pages import PAGE_MAX_BYTES
from tailrace.store.database import Database
from tailrace.store.events import Events
from tests.patience import PATIENCE_SECONDS
from tests.read_support import DeafBus, HandWrittenRun, HookedEvents, custom, execute, publish_all


async def read_upto(following: AsyncIterator[Chunk], last: int) -> list[Chunk]:
    chunks: list[Chunk] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for chunk in following:
            chunks.append(chunk)
            if chunk.last_seq >= last:
                break
    return chunks


def ids(chunks: list[Chunk]) -> list[int]:
    lines = b"".join(chunk.text for chunk in chunks).split(b"\n")
    return [int(line.removeprefix(b"id: ")) for line in lines if line.startswith(b"id: ")]


async def test_from_every_position_the_right_events_follow(database: Database, events: Events) -> None:
    """0 to the last seq: each gives exactly what is greater, and the stream ends by itself."""
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(8)
    last = await run.finish()
    await publish_all(database, DeafBus())
    hub = Hub(DeafBus(), events)
    async with hub.watch("r") as (watched, _):
        for position in range(last):
            chunks = [chunk async for chunk in follow(watched, events, position, heartbeat_seconds=3600)]
            assert ids(chunks) == list(range(position + 1, last + 1))
            assert chunks[-1].terminal


async def test_pages_of_large_events_are_small(database: Database) -> None:
    """Backfill of a run whose events are large holds a bounded part of it at a time."""
    events = HookedEvents(database)
    run = await HandWrittenRun.start(database, "r")
    large = {"text": "x" * 60_000}
    await run.append_many(300)
    for _ in range(10):
        await run.append(*(custom(large) for _ in range(5)))
    last = await run.finish()
    await publish_all(database, DeafBus())
    hub = Hub(DeafBus(), events)
    async with hub.watch("r") as (watched, _):
        chunks = await read_upto(follow(watched, events, 0, heartbeat_seconds=3600), last)
    assert ids(chunks) == list(range(1, last + 1))
    # A page is measured by the events' data alone, and always has its first event.
    assert max(len(chunk.text) for chunk in chunks) < 1.5 * PAGE_MAX_BYTES
    assert events.pages >= 50 * 60_000 // PAGE_MAX_BYTES


async def test_one_event_larger_than_a_page_is_still_sent(database: Database, events: Events) -> None:
    """The bound on a page must never stop a stream."""
    run = await HandWrittenRun.start(database, "r")
    for _ in range(3):
        await run.append(custom({"text": "x" * 2 * PAGE_MAX_BYTES}))
    last = await run.finish()
    await publish_all(database, DeafBus())
    hub = Hub(DeafBus(), events)
    async with hub.watch("r") as (watched, _):
        assert ids(await read_upto(follow(watched, events, 0, heartbeat_seconds=3600), last)) == [1, 2, 3, 4, 5]


async def test_a_follower_that_sleeps_holds_no_memory_and_wakes_in_the_right_place(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of events pass while it is not asked: the ring stays at its bound, and it resumes from the database."""
    events = HookedEvents(database)
    run = await HandWrittenRun.start(database, "r")
    bus = MemoryBus()
    hub = Hub(bus, events)
    await publish_all(database, bus)
    async with hub.watch("r") as (watched, _):
        asleep = follow(watched, events, 0, heartbeat_seconds=3600)
        assert ids([await anext(asleep)]) == [1]
        for _ in range(6):
            await run.append_many(500)
            await publish_all(database, bus)
        last = run.last_seq
        held = watched.channel._ring
        assert len(held) <= 2 * channels.RING_MAX_FRAMES < last
        pages_before = events.pages
        assert ids(await read_upto(asleep, last)) == list(range(2, last + 1))
        assert events.pages > pages_before


async def test_silence_is_broken_by_pings_and_nothing_else(database: Database, events: Events) -> None:
    """A ping carries no id, moves no position, and comes again and again."""
    await HandWrittenRun.start(database, "r")
    await publish_all(database, DeafBus())
    hub = Hub(DeafBus(), events)
    async with hub.watch("r") as (watched, _):
        following = follow(watched, events, 1, heartbeat_seconds=0.01)
        async with asyncio.timeout(PATIENCE_SECONDS):
            pings = [await anext(following) for _ in range(3)]
    assert pings == [Chunk(PING, 1, terminal=False)] * 3


async def test_a_row_that_is_gone_holds_the_stream_in_front_of_it(database: Database, events: Events) -> None:
    """A client is never given 5 when 4 does not exist: better late than a silent hole."""
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(6)
    await publish_all(database, DeafBus())
    await execute(database, "delete from tailrace.run_events where seq = 4")
    hub = Hub(DeafBus(), events)
    async with hub.watch("r") as (watched, _):
        following = follow(watched, events, 0, heartbeat_seconds=0.01)
        async with asyncio.timeout(PATIENCE_SECONDS):
            chunks = [await anext(following) for _ in range(3)]
    assert ids(chunks) == [1, 2, 3]
    assert chunks[-1].text == PING


async def test_nothing_that_is_only_persisted_is_sent(database: Database, events: Events) -> None:
    """Persisted is not published: a stream shows what the outbox has handed over, and nothing more."""
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(2)
    await publish_all(database, DeafBus())
    await run.append_many(2)
    hub = Hub(DeafBus(), events)
    async with hub.watch("r") as (watched, tail):
        assert (tail.published_seq, tail.last_seq) == (3, 5)
        following = follow(watched, events, 0, heartbeat_seconds=0.01)
        async with asyncio.timeout(PATIENCE_SECONDS):
            chunks = [await anext(following) for _ in range(2)]
    assert ids(chunks) == [1, 2, 3]
    assert chunks[-1].text == PING
