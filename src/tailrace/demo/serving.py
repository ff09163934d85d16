"""The App behind a real HTTP server, on a loopback port that the system picks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from tailrace.app import App

# Requests in progress when the demo ends are its own; streams end at once.
GRACEFUL_SECONDS = 2


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: Ctrl-C must cancel the demo, which then stops the server after its run."""
        yield


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[str]:
    """Run the App with all roles inside the block and yield the URL it answers at; errors as for ``App.lifespan``."""
    async with app.running():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            config = uvicorn.Config(
                app.asgi(),
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                ws="none",
                timeout_graceful_shutdown=GRACEFUL_SECONDS,
            )
            server = _Server(config)
            task = asyncio.create_task(server.serve(sockets=[listening]))
            try:
                while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event to wait for
                    await asyncio.sleep(0.001)
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                server.should_exit = True
                await task
