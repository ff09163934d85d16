"""Ways to trouble Tailrace from outside: processes of its own that are frozen and killed, and a line that is cut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tailrace.settings import Settings
from tests.patience import PATIENCE_SECONDS


class Served:
    """``tailrace serve`` in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.process = process
        self.address = address

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    async def kill(self) -> None:
        """End it without a word."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@asynccontextmanager
async def served(
    settings: Settings, *, app: Path | None = None, role: str = "all", **environment: str
) -> AsyncIterator[Served]:
    """Serve a role in a process of its own, ready; killed at the end of the block, if it still is there."""
    assert settings.database_url is not None
    command = [sys.executable, "-m", "tailrace", "serve", "--role", role, "--port", "0"]
    process = await asyncio.create_subprocess_exec(
        *command,
        *(["--app", str(app)] if app is not None else []),
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")},
            "TAILRACE_DATABASE_URL": settings.database_url.get_secret_value(),
            "TAILRACE_DB_SCHEMA": settings.db_schema,
            "TAILRACE_LEASE_SECONDS": str(settings.lease_seconds),
            "TAILRACE_TX_TIMEOUT_MS": str(settings.tx_timeout_ms),
            "TAILRACE_HEARTBEAT_SECONDS": str(settings.heartbeat_seconds),
            "TAILRACE_LOG_LEVEL": "error",
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            line = (await process.stdout.readline()).decode()
        address = re.search(r"http://\S+", line)
        assert address is not None, f"it ended with {process.returncode} and said {line!r}"
        served = Served(process, address[0])
        yield served
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Line:
    """A line to Postgres that can be cut, and silenced: then it looks whole, and nothing comes through."""

    def __init__(self, database_url: str) -> None:
        self._target = urlsplit(database_url)
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._refusing = False
        self._losses = 0
        self.port = 0

    @property
    def url(self) -> str:
        """URL of the same database over this line."""
        user, _, _ = self._target.netloc.rpartition("@")
        return f"postgresql://{user}@127.0.0.1:{self.port}{self._target.path}"

    def lead_to(self, url: str) -> None:
        """Connect to another server from now on; what is connected stays."""
        self._target = urlsplit(url)

    def silence(self) -> None:
        """Let nothing through from now on, in either direction, and close nothing."""
        self._open.clear()

    def cut(self) -> None:
        """Close every connection, and each new one at once."""
        self._refusing = True
        for writer in list(self._writers):
            writer.transport.abort()

    def lose_answers(self, count: int) -> None:
        """Let the next questions through, and break the connection when their answers come."""
        self._losses = count

    def mend(self) -> None:
        """Close what was silenced, as the network does in the end, and let new connections through."""
        self.cut()
        self._refusing = False
        self._open.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Line]:
        """Accept connections inside the block."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.mend()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._refusing:
                return
            there, back = await self._connect()
            self._writers.add(back)
            try:
                await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer, answers=True))
            finally:
                self._writers.discard(back)
                back.transport.abort()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        given = parse_qs(self._target.query)
        if "host" in given:
            port = given.get("port", ["5432"])[0]
            return await asyncio.open_unix_connection(f"{given['host'][0]}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._target.hostname, self._target.port or 5432)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        while piece := await reader.read(1 << 16):
            await self._open.wait()
            if answers and self._losses:
                self._losses -= 1
                break
            writer.write(piece)
            await writer.drain()
        raise ConnectionResetError
