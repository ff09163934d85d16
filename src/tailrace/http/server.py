"""An ASGI application behind uvicorn, from the first connection to the last."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

# Streams end at once when the process is asked to stop; this is for requests in progress.
GRACEFUL_SECONDS = 5


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone.

        uvicorn would raise them once more when it has stopped, which ends the process before the App has given its
        leases back.
        """
        yield


@asynccontextmanager
async def serving(asgi: ASGIApp, listening: socket.socket) -> AsyncIterator[uvicorn.Server]:
    """Serve ``asgi`` on a listening socket inside the block; set ``should_exit`` on what is yielded to stop earlier."""
    config = uvicorn.Config(
        asgi,
        lifespan="off",
        log_config=None,
        access_log=False,  # its lines would hold query strings, and with them tokens
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event to wait for
            await asyncio.sleep(0.001)
        yield server
    finally:
        server.should_exit = True
        await task
