"""Our own server around an App in this process, with bounds that a test can wait for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import tailrace
from tailrace.http.connection import Limits
from tailrace.http.server import serving
from tailrace.runtime import Role
from tests.patience import PATIENCE_SECONDS

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIMITS = Limits(connections_max=50, request_seconds=0.3, write_seconds=0.5)
# For what does not wait for a bound: a machine that stands still for a moment must not reach it.
PATIENT = Limits(connections_max=50, request_seconds=PATIENCE_SECONDS, write_seconds=PATIENCE_SECONDS)
API: tuple[Role, ...] = ("api",)


class Server:
    """An App behind our own server, with bounds that a test can wait for."""

    def __init__(self, app: tailrace.App, port: int, connections: set[Any]) -> None:
        self.app = app
        self.port = port
        self.connections = connections

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def says(self, *pieces: bytes) -> bytes:
        """Send the pieces, nothing more, and return all that comes until the server closes the connection."""
        async with self.connect() as (reader, writer), asyncio.timeout(PATIENCE_SECONDS):
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                return await reader.read()
            except ConnectionError:
                return b""

    async def is_healthy(self) -> bool:
        async with self.connect() as (reader, writer), asyncio.timeout(PATIENCE_SECONDS):
            writer.write(HEALTH)
            return (await reader.readline()).startswith(b"HTTP/1.1 200 ")


@asynccontextmanager
async def served(app: tailrace.App, limits: Limits = PATIENT) -> AsyncIterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with serving(app.asgi(roles=API), listening, limits) as uvicorn:
            yield Server(app, listening.getsockname()[1], uvicorn.server_state.connections)
