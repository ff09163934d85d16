"""Follow one run from a position to its end: the ring where it reaches, the database where it does not.

A follower owns nothing but its position.  A client that reads slowly holds back its own follower alone; when it comes
back, its position has left the ring and it is served from the database, a bounded page at a time, until it has caught
up.  So its memory is one page and one chunk, however far it is behind and however large the ring is, and it loses
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from tailrace.read.frame import PING, Frame, frame
from tailrace.read.hub import Watched
from tailrace.store.events import Events

# One write: large enough to cost little per event, small enough that a slow reader holds little.  A larger event is a
# chunk of its own.
CHUNK_MAX_FRAMES = 512
CHUNK_MAX_BYTES = 64 * 2**10
PAGE_MAX_EVENTS = 1000
PAGE_MAX_BYTES = 256 * 2**10
# A page after events of unknown size; the next ones fit what was seen.
FIRST_PAGE_EVENTS = 100


class Chunk(NamedTuple):
    """Bytes to write at once; ``last_seq`` and ``terminal`` are those of the last event in them or before them."""

    text: bytes
    last_seq: int
    terminal: bool


async def follow(watched: Watched, events: Events, position: int, *, heartbeat_seconds: float) -> AsyncIterator[Chunk]:
    """Yield every event after ``position`` in order, exactly once, and pings while there is none.

    Ends after the terminal event, or when the channel is closed.
    """
    channel = watched.channel
    page_limit = FIRST_PAGE_EVENTS
    while not channel.closed:
        changed = watched.changed
        # No more of the ring than goes out at once: a reader that stalls must not keep alive what the ring has dropped.
        frames = channel.after(position, limit=CHUNK_MAX_FRAMES)
        if frames is None:
            frames = await _page(events, channel.run_id, position, channel.head, page_limit)
            page_limit = _fitting(frames)
        else:
            frames = frames[: _chunk_end(frames, 0)]
        start = 0
        while start < len(frames):
            end = _chunk_end(frames, start)
            part = frames[start:end]
            position, start = part[-1].seq, end
            yield Chunk(b"".join([each.text for each in part]), position, part[-1].terminal)
            if part[-1].terminal:
                return
        if frames:
            continue
        try:
            async with asyncio.timeout(heartbeat_seconds):
                await changed.wait()
        except TimeoutError:
            yield Chunk(PING, position, terminal=False)


async def _page(events: Events, run_id: str, position: int, head: int, limit: int) -> list[Frame]:
    page = await events.page(run_id, after=position, upto=head, limit=limit, max_bytes=PAGE_MAX_BYTES)
    # A row that somebody deleted is a gap: the stream waits in front of it rather than skip it.
    return [frame(event) for due, event in enumerate(page, position + 1) if event.seq == due]


def _chunk_end(frames: Sequence[Frame], start: int) -> int:
    """Return where the chunk that begins at ``start`` ends; it has one frame at least."""
    size = 0
    for end in range(start, min(len(frames), start + CHUNK_MAX_FRAMES)):
        size += len(frames[end].text)
        if size > CHUNK_MAX_BYTES and end > start:
            return end
    return min(len(frames), start + CHUNK_MAX_FRAMES)


def _fitting(frames: Sequence[Frame]) -> int:
    size = sum(len(each.text) for each in frames)
    if not frames:
        return FIRST_PAGE_EVENTS
    return max(2, min(PAGE_MAX_EVENTS, PAGE_MAX_BYTES * len(frames) // max(1, size)))
