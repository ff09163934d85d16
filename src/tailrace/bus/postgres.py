"""The bus over the Tailrace database itself: NOTIFY as a doorbell.

A notification carries a run's id and its last published seq, never events: payloads end at 8,000 bytes, and the rows
are one indexed read away.  The receiver reads rows up to that seq from the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tailrace.bus.bus import OnLoss, OnPublished, Published
from tailrace.bus.outage import Outage
from tailrace.errors import BusUnavailable, DatabaseUnavailable
from tailrace.store.doorbell import Doorbell, Ring

ADDRESS = "postgres://"
# What a NOTIFY may take; the publisher holds row locks meanwhile.
PATIENCE_SECONDS = 1.0
# After a failure the rings are left to the doorbell's own flush for this long, instead of being waited for.
RETRY_SECONDS = 1.0


class PostgresBus:
    """``postgres://``: doorbells through the one LISTEN connection of the process."""

    def __init__(self, doorbell: Doorbell, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._doorbell = doorbell
        self._outage = Outage(ADDRESS, doorbell.telemetry)
        self._patience_seconds = patience_seconds
        self._again_at = 0.0
        self._watched: set[str] = set()
        self._on_published: OnPublished | None = None
        doorbell.on(Ring.PUBLISHED, self._rung)

    @property
    def hearing(self) -> bool:
        """Whether rings of other processes arrive."""
        return self._doorbell.hearing

    def attach(self, on_published: OnPublished, on_loss: OnLoss) -> None:
        """Name the receiver; a broken and restored LISTEN connection counts as a loss."""
        self._on_published = on_published
        self._doorbell.on_restored(on_loss)

    async def publish(self, batch: Sequence[Published]) -> None:
        """Ring for every run in the batch and wait until Postgres has taken it.

        Raise ``BusUnavailable`` when it has not; the rings stay queued and go out with a later flush.
        """
        if self._doorbell.alone:
            return
        for published in batch:
            self._doorbell.announce(published.run_id, published.last_seq)
        now = asyncio.get_running_loop().time()
        if now < self._again_at:
            raise BusUnavailable(f"the bus {ADDRESS} is away: {self._outage.reason}")
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._doorbell.flush()
        except (DatabaseUnavailable, TimeoutError) as error:
            reason = str(error) or f"NOTIFY took longer than {self._patience_seconds:g} s"
            self._again_at = now + RETRY_SECONDS
            self._outage.begin(reason)
            raise BusUnavailable(f"the bus {ADDRESS} is away: {reason}") from error
        self._again_at = 0.0
        self._outage.end()

    async def subscribe(self, run_id: str) -> None:
        """Pass this run on from now: the LISTEN connection hears of every run, so nothing is sent."""
        self._watched.add(run_id)

    async def unsubscribe(self, run_id: str) -> None:
        """Pass this run on no longer."""
        self._watched.discard(run_id)

    async def check(self) -> None:
        """Raise ``BusUnavailable`` while the LISTEN connection is down."""
        if not self._doorbell.listening:
            raise BusUnavailable("the bus postgres:// is away: the LISTEN connection is down and is being restored")

    def _rung(self, argument: str) -> None:
        run_id, _, last_seq = argument.rpartition(" ")
        # What cannot be read is passed over: to raise here would cost the other rings of the same notification.
        if run_id in self._watched and last_seq.isdecimal() and self._on_published is not None:
            self._on_published(Published(run_id, int(last_seq)))
