"""Follow one run from a position to its end: the ring where it reaches, the database where it does not.

A follower owns nothing but its position.  A client that reads slowly holds back its own follower alone; when it comes
back, its position has left the ring and it is served from the database, a bounded page at a time, until it has caught
up.  So its memory is a few pages, however far it is behind and however large the ring is, and it loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from tailrace.read.frame import CHUNK_MAX_FRAMES, PING, Chunk, joined
from tailrace.read.hub import Watched
from tailrace.read.pages import backfill
from tailrace.store.events import Events


async def follow(
    watched: Watched, events: Events, position: int, *, heartbeat_seconds: float
) -> AsyncGenerator[Chunk, None]:
    """Yield every event after ``position`` in order, exactly once, and pings while there is none.

    Ends after the terminal event, or when the channel is closed.
    """
    channel = watched.channel
    while not channel.closed:
        changed, before = watched.changed, position
        # No more of the ring than goes out at once: a reader that stalls must not keep alive what the ring has dropped.
        frames = channel.after(position, limit=CHUNK_MAX_FRAMES)
        if frames is None:
            async with aclosing(backfill(channel, events, position, gate=watched.gate)) as pages:
                async for chunk in pages:
                    position = chunk.last_seq
                    yield chunk
                    if chunk.terminal:
                        return
        elif frames:
            chunk = joined(frames)
            position = chunk.last_seq
            yield chunk
            if chunk.terminal:
                return
        if position > before:
            continue
        try:
            async with asyncio.timeout(heartbeat_seconds):
                await changed.wait()
        except TimeoutError:
            yield Chunk(PING, position, terminal=False)
