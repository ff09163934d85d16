"""The bus over the Tailrace database itself: NOTIFY as a doorbell.

A notification carries a run's id and its last published seq, never events: payloads end at 8,000 bytes, and the rows
are one indexed read away.  The receiver reads rows up to that seq from the database.
"""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.bus.bus import OnLoss, OnPublished, Published
from tailrace.errors import BusUnavailable, DatabaseUnavailable
from tailrace.store.doorbell import Doorbell, Ring


class PostgresBus:
    """``postgres://``: doorbells through the one LISTEN connection of the process."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._watched: set[str] = set()
        self._on_published: OnPublished | None = None
        doorbell.on(Ring.PUBLISHED, self._rung)

    def attach(self, on_published: OnPublished, on_loss: OnLoss) -> None:
        """Name the receiver; a broken and restored LISTEN connection counts as a loss."""
        self._on_published = on_published
        self._doorbell.on_restored(on_loss)

    async def publish(self, batch: Sequence[Published]) -> None:
        """Ring for every run in the batch and wait until Postgres has taken it."""
        for published in batch:
            self._doorbell.announce(published.run_id, published.last_seq)
        try:
            await self._doorbell.flush()
        except DatabaseUnavailable as error:
            raise BusUnavailable(f"the bus postgres:// is away: {error}") from error

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
