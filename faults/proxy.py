"""A TCP proxy between each process and Postgres that can cut, stall and half-close what passes through it.

Each process has a link, and each link a port of its own, so that a fault can be given to one process, and a backend in
``pg_stat_activity`` can be told by the port that the proxy calls Postgres from.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from contextlib import suppress

CHUNK_BYTES = 1 << 16


class Connection:
    """One connection of a process: its two halves, and what is done to it."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far
        self.backend_port: int = far.get_extra_info("sockname")[1]
        self.deaf = False  # what Postgres says is dropped

    def cut(self, *, reset: bool) -> None:
        """End both halves, with a reset or as an ordinary end."""
        for half in (self.near, self.far):
            if reset and (found := half.get_extra_info("socket")) is not None:
                with suppress(OSError):
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            half.transport.abort()

    def half_close(self) -> None:
        """Tell Postgres that the process says no more, and drop what Postgres says; the process notices nothing."""
        self.deaf = True
        with suppress(OSError, RuntimeError):
            self.far.write_eof()


class Link:
    """The way of one process to Postgres."""

    def __init__(self, name: str, target: int) -> None:
        self.name = name
        self.port = 0
        self.bytes_held = 0
        self.connections: set[Connection] = set()
        self._target = target
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen on a free port of the loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and cut what is open."""
        if self._server is not None:
            self._server.close()
        self.resume()
        self.cut(reset=False)
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    @property
    def backend_ports(self) -> list[int]:
        """The ports from which this link calls Postgres."""
        return [connection.backend_port for connection in self.connections]

    def cut(self, *, reset: bool) -> int:
        """Cut every connection and return how many there were."""
        cut = list(self.connections)
        for connection in cut:
            connection.cut(reset=reset)
        return len(cut)

    def half_close(self, rng: random.Random) -> int:
        """Half-close every connection, the idle and the busy; return how many there were."""
        halved = list(self.connections)
        rng.shuffle(halved)
        for connection in halved:
            connection.half_close()
        return len(halved)

    def stall(self) -> None:
        """Hold everything, in both directions; new connections are accepted and hear nothing."""
        self.bytes_held = 0
        self._flowing.clear()

    def resume(self) -> None:
        """Let everything flow again."""
        self._flowing.set()

    async def _serve(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            near.transport.abort()
            return
        connection = Connection(near, far)
        self.connections.add(connection)
        pumps = {
            asyncio.ensure_future(self._pump(connection, near_reader, far, to_near=False)),
            asyncio.ensure_future(self._pump(connection, far_reader, near, to_near=True)),
        }
        self._pumps |= pumps
        try:
            await asyncio.wait(pumps)
        finally:
            self._pumps -= pumps
            self.connections.discard(connection)
            connection.cut(reset=False)

    async def _pump(
        self, connection: Connection, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, to_near: bool
    ) -> None:
        with suppress(OSError, RuntimeError):
            while data := await source.read(CHUNK_BYTES):
                if not self._flowing.is_set():
                    self.bytes_held += len(data)
                    await self._flowing.wait()
                if not connection.deaf:
                    sink.write(data)
                    await sink.drain()
        # The other side has ended.  A deaf connection stays, half-open, until the process gives it up.
        if not (connection.deaf and to_near):
            sink.transport.abort()
