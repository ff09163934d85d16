"""Backfill: what the ring no longer holds, from the database, a bounded page at a time.

The frames are built by Postgres (``events_frames.sql``) and joined here: 0.2 µs an event in this process, where rows
and ``frame`` take 2.3 µs, and 1.0 µs in Postgres, where rows take 0.5 µs.  It is this process that serves everybody
else meanwhile.  The next pages are on their way
while one is being sent, so that Postgres, this process and the client work at the same time.

How large events are is not known beforehand.  The first page is of rows, exact in bytes and small; it says how many
events fill a page.  In later ones an event that is far larger than those before ends the page, and rows serve it.  A
reader that takes nothing therefore holds the first page at most, and one that takes nothing any more
``1 + PAGES_AHEAD`` pages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import NamedTuple

from tailrace.read.channel import Channel
from tailrace.read.frame import Chunk, frame, is_terminal, joined
from tailrace.store.events import Events

FIRST_PAGE_EVENTS = 100
FIRST_PAGE_MAX_BYTES = 64 * 2**10
# From 128 KB on a page costs the same for each event, whatever its size.
PAGE_MAX_EVENTS = 2000
PAGE_MAX_BYTES = 256 * 2**10
# An event that is as many times larger than the average so far is read as a row, which bounds a page by so much.
OUTLIER = 4
PAGES_AHEAD = 2
# Of a frame.
LINES = 3
# Pages that all streams of a process read at the same time: clients that come back in a storm must leave most of the
# connections (``store.database.POOL_MAX``) to those that write and publish, and not make them wait behind a thousand
# pages.
PAGES_AT_ONCE = 4


class Page(NamedTuple):
    """A stretch of the log; ``is_whole`` when it goes as far as was asked for."""

    chunk: Chunk
    events: int
    is_whole: bool


async def backfill(
    channel: Channel, events: Events, position: int, *, gate: asyncio.Semaphore
) -> AsyncGenerator[Chunk, None]:
    """Yield what follows ``position`` until the ring reaches, the run ends, or the next row is not there.

    :param gate: lets ``PAGES_AT_ONCE`` statements at a time through.
    """
    ahead: deque[asyncio.Task[Page | None]] = deque()
    limit, by_rows, asked = FIRST_PAGE_EVENTS, True, position
    try:
        while not channel.closed and channel.after(position, limit=1) is None:
            if by_rows:
                async with gate:
                    page = await _rows(events, channel.run_id, position, channel.head)
                if page is None:
                    return  # A row that somebody deleted is a gap: the stream waits in front of it.
                asked = page.chunk.last_seq
            else:
                while len(ahead) < PAGES_AHEAD + 1 and channel.after(asked, limit=1) is None:
                    upto = min(asked + limit, channel.head)
                    ahead.append(asyncio.create_task(_frames(events, channel.run_id, asked, upto, limit, gate)))
                    asked = upto
                page = await ahead.popleft()
            by_rows = page is None or not page.is_whole
            if by_rows:
                await _drop(ahead)
            if page is None:
                continue
            position = page.chunk.last_seq
            limit = _fitting(page)
            yield page.chunk
            if page.chunk.terminal:
                return
    finally:
        await _drop(ahead)


async def _rows(events: Events, run_id: str, after: int, upto: int) -> Page | None:
    rows = await events.page(run_id, after=after, upto=upto, limit=FIRST_PAGE_EVENTS, max_bytes=FIRST_PAGE_MAX_BYTES)
    found = [frame(event) for due, event in enumerate(rows, after + 1) if event.seq == due]
    return Page(joined(found), len(found), is_whole=True) if found else None


async def _frames(
    events: Events, run_id: str, after: int, upto: int, limit: int, gate: asyncio.Semaphore
) -> Page | None:
    """Return the page as far as its events are there and of the expected size; None when not even the first one is."""
    async with gate:
        found = await events.frames(
            run_id, after=after, upto=upto, limit=upto - after, event_max_bytes=OUTLIER * PAGE_MAX_BYTES // limit
        )
    texts: list[str] = []
    for text in found:
        if text is None:
            break
        texts.append(text)
    last_seq, joined_text = after + len(texts), "".join(texts)
    if (
        not texts
        # In order and each but once: where first and last are what is due, so are those between.
        or not texts[0].startswith(f"id: {after + 1}\n")
        or not texts[-1].startswith(f"id: {last_seq}\n")
        # Rows written by hand may have line breaks in their data; `frame` takes them out.
        or joined_text.count("\n") != LINES * len(texts)
        or "\r" in joined_text
    ):
        return None
    return Page(Chunk(joined_text.encode(), last_seq, is_terminal(texts[-1])), len(texts), is_whole=last_seq == upto)


async def _drop(ahead: deque[asyncio.Task[Page | None]]) -> None:
    while ahead:
        task = ahead.pop()
        task.cancel()
        # What has failed is asked again, by rows, and says so there.
        with suppress(asyncio.CancelledError, Exception):
            await task


def _fitting(page: Page) -> int:
    size = len(page.chunk.text)
    return max(2, min(PAGE_MAX_EVENTS, PAGE_MAX_BYTES * page.events // max(1, size)))
