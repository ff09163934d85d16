"""Backfill: what the ring no longer holds, from the database, a bounded page at a time.

What is particular to each frame is built and joined by Postgres (``events_frames.sql``), looked at here as a whole, and
written out: 0.1 µs an event in this process, where rows and ``frame`` take 2.3 µs.  It is this process that serves
everybody else meanwhile.  The next page is on its way while one is being sent, so that Postgres, this process and the
client work at the same time.

How large events are is not known beforehand.  The first page is of rows, exact in bytes and small; it says how many
events fill a page.  In later ones an event that is far larger than those before ends the page, and rows serve it.
Where Postgres has nothing, rows serve the rest: they lie elsewhere (``archive.reader``).  A reader that takes nothing
holds the first page at most, and one that takes nothing any more ``1 + PAGES_AHEAD`` pages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import NamedTuple

from tailrace.read.channel import Channel
from tailrace.read.frame import NEXT, SEQ, Chunk, Frame, frame, is_terminal, joined, written_out
from tailrace.store.events import Events, Frames

FIRST_PAGE_EVENTS = 100
FIRST_PAGE_MAX_BYTES = 64 * 2**10
# A statement costs as much as a hundred events.
PAGE_MAX_EVENTS = 2000
# A page is joined, sent by Postgres and written part by part (``events_frames.sql`` has as many).  From 128 KiB on the
# C library asks the kernel anew for each buffer, on both sides.
PARTS = 4
PAGE_MAX_BYTES = PARTS * 64 * 2**10
# Rows at a time from elsewhere: a millisecond of this process.
ROWS_MAX_EVENTS = 500
# An event that is as many times larger than the average so far is read as a row, which bounds a page by so much.
OUTLIER = 4
PAGES_AHEAD = 1
# Pages that all streams of a process read at the same time: clients that come back in a storm must leave most of the
# connections (``store.database.POOL_MAX``) to those that write and publish, and not make them wait behind a thousand
# pages.
PAGES_AT_ONCE = 4


class Page(NamedTuple):
    """A stretch of the log; ``is_whole`` when it goes as far as was asked for, ``is_elsewhere`` when it has no rows."""

    chunks: Iterable[Chunk]
    events: int
    is_whole: bool = True
    is_elsewhere: bool = False


async def backfill(
    channel: Channel, events: Events, position: int, *, gate: asyncio.Semaphore
) -> AsyncGenerator[Chunk, None]:
    """Yield what follows ``position`` until the ring reaches, the run ends, or the next row is not there.

    :param gate: lets ``PAGES_AT_ONCE`` statements at a time through.
    """
    ahead: deque[asyncio.Task[Page]] = deque()
    limit, by_rows, is_elsewhere, asked = FIRST_PAGE_EVENTS, True, False, position
    try:
        while not channel.closed and channel.after(position, limit=1) is None:
            if by_rows or is_elsewhere:
                rows_max = ROWS_MAX_EVENTS if is_elsewhere else FIRST_PAGE_EVENTS
                async with gate:
                    page = await _rows(events, channel.run_id, position, channel.head, rows_max)
                if not page.events:
                    return  # A row that somebody deleted is a gap: the stream waits in front of it.
                asked = position + page.events
            else:
                while len(ahead) <= PAGES_AHEAD and channel.after(asked, limit=1) is None:
                    upto = min(asked + limit, channel.head)
                    ahead.append(asyncio.create_task(_frames(events, channel.run_id, asked, upto, limit, gate)))
                    asked = upto
                page = await ahead.popleft()
                is_elsewhere = page.is_elsewhere
            by_rows = not page.is_whole
            if by_rows:
                await _drop(ahead)
            size = 0
            for chunk in page.chunks:
                position = chunk.last_seq
                size += len(chunk.text)
                yield chunk
                if chunk.terminal:
                    return
            if page.events:
                limit = max(2, min(PAGE_MAX_EVENTS, PAGE_MAX_BYTES * page.events // size))
    finally:
        await _drop(ahead)


async def _rows(events: Events, run_id: str, after: int, upto: int, limit: int) -> Page:
    rows = await events.page(run_id, after=after, upto=upto, limit=limit, max_bytes=FIRST_PAGE_MAX_BYTES)
    found = [frame(event) for due, event in enumerate(rows, after + 1) if event.seq == due]
    return Page(_chunks(found), len(found))


def _chunks(frames: Sequence[Frame]) -> list[Chunk]:
    chunks: list[Chunk] = []
    while frames:
        chunks.append(joined(frames))
        frames = frames[chunks[-1].last_seq + 1 - frames[0].seq :]
    return chunks


async def _frames(events: Events, run_id: str, after: int, upto: int, limit: int, gate: asyncio.Semaphore) -> Page:
    """Return the page as far as its events are there and of the expected size."""
    part = -(-limit // PARTS)
    async with gate:
        found = await events.frames(
            run_id, after=after, upto=upto, part=part, event_max_bytes=OUTLIER * PAGE_MAX_BYTES // limit
        )
    parts: list[Frames] = []
    count = 0
    for each in found:
        due = min(part, upto - after - count)
        parts.append(_sound(each, after + count, due))
        count += parts[-1].events
        if parts[-1].events < due:
            break
    return Page(
        _written_out(parts, run_id, after),
        count,
        is_whole=after + count == upto,
        is_elsewhere=not any(each.events for each in found),
    )


def _written_out(parts: Sequence[Frames], run_id: str, position: int) -> Iterator[Chunk]:
    """Yield the chunks of frames one by one, as they are sent: until then a page is half as large."""
    for each in parts:
        if each.events:
            position += each.events
            text = written_out(each.text, run_id, each.kind)
            last = text.rfind(b"\n\n", 0, -2) + 2 if each.events > 1 else 0
            yield Chunk(text, position, is_terminal(text[last:]))


def _sound(found: Frames, after: int, due: int) -> Frames:
    """Return frames as far as they are what is due, and before the first that is too large or not to be sent so."""
    text = found.text
    if (
        # In order and each but once: where first, last and number are what is due, so are those between.
        found.events == due
        and text.startswith(b"%d%b" % (after + 1, SEQ))
        and text.startswith(b"%d%b" % (after + due, SEQ), text.rfind(NEXT) + 1)
        # Rows written by hand may have line breaks in their data; `frame` takes them out.
        and b"\n" not in text
        and b"\r" not in text
    ):
        return found
    size, seq = 0, after
    for each in text.split(NEXT):
        if not each.startswith(b"%d%b" % (seq + 1, SEQ)) or b"\n" in each or b"\r" in each:
            break
        size, seq = size + len(each) + len(NEXT), seq + 1
    return Frames(text[: max(0, size - len(NEXT))], seq - after, found.kind)


async def _drop(ahead: deque[asyncio.Task[Page]]) -> None:
    for task in ahead:
        task.cancel()
    # What has failed is asked again, by rows, and says so there.  They are not suppressed one by one: the cancellation
    # that comes meanwhile may be the reader's own.
    dropped = asyncio.gather(*ahead, return_exceptions=True)
    ahead.clear()
    await dropped
