"""A TCP proxy between a client and a real server: connections that are cut, and ones that fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Passes bytes on to ``target``; ``port`` is where clients connect."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._passing.set()

    def cut(self) -> int:
        """Cut every connection and return how many there were."""
        for pair in (cut := list(self._pairs)):
            for writer in pair:
                writer.transport.abort()
        return len(cut)

    def silence(self) -> None:
        """Keep every connection, take new ones, and pass nothing on: a half-open network."""
        self._passing.clear()

    def restore(self) -> None:
        """Pass on again."""
        self._passing.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until either side ends."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(OSError, asyncio.CancelledError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            pair = (writer, far_writer)
            self._pairs.add(pair)
            ways = [
                asyncio.create_task(self._pass(reader, far_writer)),
                asyncio.create_task(self._pass(far_reader, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._pairs.discard(pair)
                far_writer.transport.abort()
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
        writer.transport.abort()
        self._tasks.discard(task)

    async def end(self) -> None:
        """Cut everything and wait until it is gone."""
        for task in (left := list(self._tasks)):
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while read := await reader.read(65536):
                await self._passing.wait()
                writer.write(read)
                await writer.drain()


@asynccontextmanager
async def proxied(target: int) -> AsyncIterator[Proxy]:
    """Run a proxy in front of a port of this machine."""
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()
