"""The buses that a campaign can run on.  A new one is one more entry in ``BUSES``."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import Server, nats, valkey


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


@asynccontextmanager
async def _redis(folder: Path) -> AsyncIterator[CampaignBus]:
    with valkey(folder) as server:
        yield _of(server, f"redis://127.0.0.1:{server.port}")


@asynccontextmanager
async def _nats(folder: Path) -> AsyncIterator[CampaignBus]:
    with nats(folder) as server:
        yield _of(server, f"nats://127.0.0.1:{server.port}")


def _of(server: Server, url: str) -> CampaignBus:
    async def stop() -> str:
        server.kill()
        with socket.socket() as probe:
            refused = probe.connect_ex(("127.0.0.1", server.port)) != 0
        return "its port refuses connections" if refused else ""

    async def start() -> None:
        await asyncio.to_thread(server.start)

    return CampaignBus(url, stop, start)


BUSES: dict[str, Callable[[Path], AbstractAsyncContextManager[CampaignBus]]] = {
    "postgres": _postgres,
    "redis": _redis,
    "nats": _nats,
}
