"""The App behind a real HTTP server, on a loopback port that the system picks."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tailrace.app import App
from tailrace.http import server


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[str]:
    """Run the App with all roles inside the block and yield the URL it answers at; errors as for ``App.lifespan``."""
    async with app.running():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            async with server.serving(app.asgi(), listening):
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
