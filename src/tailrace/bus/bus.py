"""What every bus does.

A bus promises little: it passes on what is published after a subscription is acknowledged, most of the time.  It may
lose, repeat and reorder; the reader compares with the database (``read.channel``).  When a bus knows that it may have
lost something it says so, and the reader compares at once instead of at the next heartbeat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from tailrace.model.event import StoredEvent


class Published(NamedTuple):
    """Events of one run that the outbox hands over, contiguous and ending at ``last_seq``.

    ``events`` is empty where the bus carries only the news that there are events up to ``last_seq``.
    """

    run_id: str
    last_seq: int
    events: Sequence[StoredEvent] = ()


OnPublished = Callable[[Published], None]
OnLoss = Callable[[], None]


class Bus(Protocol):
    """A way from the outbox to the streams of every process."""

    @property
    def hearing(self) -> bool:
        """Whether what others publish is heard just now; while it is not, readers ask the database more often."""
        ...

    def attach(self, on_published: OnPublished, on_loss: OnLoss) -> None:
        """Name the one receiver of this process; neither call may block or raise."""
        ...

    async def publish(self, batch: Sequence[Published]) -> None:
        """Hand events over, runs in any order, events of a run in order; raise ``BusUnavailable`` if it cannot."""
        ...

    async def subscribe(self, run_id: str) -> None:
        """Return once everything published for this run from now on will be passed on, or announced as lost."""
        ...

    async def unsubscribe(self, run_id: str) -> None:
        """Stop passing on what is published for this run."""
        ...

    async def check(self) -> None:
        """Raise ``BusUnavailable`` unless the bus answers."""
        ...
