"""The bus inside one process: a function call."""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.bus.bus import OnLoss, OnPublished, Published


class MemoryBus:
    """Passes events to the streams of its own process, in the publisher's call.

    It is the whole of ``memory://`` and the first half of every other bus (``LocalFirst``).
    """

    def __init__(self) -> None:
        self._watched: set[str] = set()
        self._on_published: OnPublished | None = None

    @property
    def hearing(self) -> bool:
        """Always: there is nobody else."""
        return True

    def attach(self, on_published: OnPublished, on_loss: OnLoss) -> None:  # noqa: ARG002 - nothing is ever lost here
        """Name the receiver."""
        self._on_published = on_published

    async def publish(self, batch: Sequence[Published]) -> None:
        """Pass on the runs that are watched."""
        if self._on_published is None:
            return
        for published in batch:
            if published.run_id in self._watched:
                self._on_published(published)

    async def subscribe(self, run_id: str) -> None:
        """Pass this run on from now."""
        self._watched.add(run_id)

    async def unsubscribe(self, run_id: str) -> None:
        """Pass this run on no longer."""
        self._watched.discard(run_id)

    async def check(self) -> None:
        """Return: there is nothing that could be away."""
