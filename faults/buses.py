"""The buses that a campaign can run on.  A new one is one more entry in ``BUSES``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CampaignBus:
    """A bus for the servers; one that is a server of its own can be stopped and started.

    ``stop`` returns what proves that it is away.
    """

    url: str
    stop: Callable[[], Awaitable[str]] | None = None
    start: Callable[[], Awaitable[None]] | None = None


@asynccontextmanager
async def _postgres(_: Path) -> AsyncIterator[CampaignBus]:
    yield CampaignBus("postgres://")


BUSES: dict[str, Callable[[Path], AbstractAsyncContextManager[CampaignBus]]] = {"postgres": _postgres}
