"""A bus between processes, with the own process served first and directly.

A remote bus that is away does not hold publication up (ADR 13): the log is the truth and the bus a hint.  The remote
half tells once that it is away; what it could not take is published all the same, and readers in other processes find
it when they compare with the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from tailrace.bus.bus import Bus, OnLoss, OnPublished, Published
from tailrace.bus.memory import MemoryBus
from tailrace.errors import BusUnavailable


class LocalFirst:
    """Hands events to the streams of this process, then to the remote bus for those of the others."""

    def __init__(self, remote: Bus) -> None:
        self._local = MemoryBus()
        self._remote = remote

    @property
    def hearing(self) -> bool:
        """Whether the remote half hears."""
        return self._remote.hearing

    def attach(self, on_published: OnPublished, on_loss: OnLoss) -> None:
        """Name the receiver, of both halves."""
        self._local.attach(on_published, on_loss)
        self._remote.attach(on_published, on_loss)

    async def publish(self, batch: Sequence[Published]) -> None:
        """Hand the batch to this process, then to the others as far as the remote half can."""
        await self._local.publish(batch)
        with suppress(BusUnavailable):
            await self._remote.publish(batch)

    async def subscribe(self, run_id: str) -> None:
        """Subscribe on both halves."""
        await self._remote.subscribe(run_id)
        await self._local.subscribe(run_id)

    async def unsubscribe(self, run_id: str) -> None:
        """Unsubscribe on both halves."""
        await self._local.unsubscribe(run_id)
        await self._remote.unsubscribe(run_id)

    async def check(self) -> None:
        """Ask the remote half."""
        await self._remote.check()
