"""What the tests of the read side share: a log to write by hand, a server to read from, and a reader of raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

import httpx2
import uvicorn

import tailrace
from tailrace.bus.bus import Bus, OnLoss, OnPublished, Published
from tailrace.bus.memory import MemoryBus
from tailrace.http.connection import Limits
from tailrace.http.server import serving as own_serving
from tailrace.http.services import Services
from tailrace.model import draft
from tailrace.model.draft import Draft
from tailrace.model.event import StoredEvent
from tailrace.model.run import RunState
from tailrace.read.follow import follow
from tailrace.runtime import Role
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.events import Events, Frames, RunAppend
from tailrace.store.leases import Leases
from tailrace.store.outbox import Outbox
from tailrace.store.queries import in_schema
from tailrace.store.runs import RunRequest, Runs
from tailrace.telemetry import Telemetry
from tailrace.write.publisher import Publisher
from tests.patience import PATIENCE_SECONDS
from tests.servers import free_port

AGENT = "by-hand"
# Which of the two ends of the read path `reading` serves by; tests of streams are run on both.
OWN_SERVER = True
RUNS = "/api/agents/runs"
AGENTS = Path(__file__).parent / "http" / "agents.py"


def custom(data: dict[str, Any] | None = None, *, name: str = "Progress", ts: int = 1_790_000_000_000) -> Draft:
    return draft.custom(name, data, ts, max_bytes=1 << 24)


def event(run_id: str, seq: int, *, type: str = "Custom", name: str | None = "Progress") -> StoredEvent:  # noqa: A002 - the column's name
    return StoredEvent(run_id, seq, 1_790_000_000_000, type, name, None, None)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that has no signal of its own; fail with its name when it does not come."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():  # noqa: ASYNC110 - what is looked at has no event to wait for
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited {PATIENCE_SECONDS} s until {what}; it did not happen") from None


async def execute(database: Database, sql: str, *args: object) -> None:
    """Execute a statement that names its tables as ``tailrace.…`` in the test's own schema."""
    async with database.connection() as connection:
        await connection.execute(in_schema(sql, database.schema), *args)


class HandWrittenRun:
    """A run whose events are appended by the test, under a lease of its own."""

    def __init__(self, database: Database, run_id: str, epoch: int) -> None:
        self.id = run_id
        self.last_seq = 1
        self._events = Events(database)
        self._epoch = epoch

    @classmethod
    async def start(cls, database: Database, run_id: str) -> HandWrittenRun:
        """Create the run, which appends RunStarted, and claim it."""
        agent = f"{AGENT}:{run_id}"
        await Runs(database).create(RunRequest(run_id, agent, None, 1_790_000_000_000))
        (lease,) = await Leases(database).claim(worker="test", agents=[agent], limit=1, lease_seconds=3600)
        return cls(database, run_id, lease.epoch)

    async def append(self, *drafts: Draft, state: RunState | None = None) -> int:
        """Append events and return the last one's seq."""
        first = self.last_seq + 1
        heads = await self._events.append([RunAppend(self.id, self._epoch, first, drafts, state=state)])
        assert heads[self.id].last_seq == self.last_seq, "the append was refused"
        self.last_seq += len(drafts)
        return self.last_seq

    async def append_many(self, count: int, data: dict[str, Any] | None = None) -> int:
        """Append ``count`` Custom events and return the last one's seq."""
        for start in range(0, count, 500):
            await self.append(*(custom(data) for _ in range(min(500, count - start))))
        return self.last_seq

    async def finish(self) -> int:
        """Append RunFinished and return its seq."""
        return await self.append(draft.run_finished(1_790_000_000_001), state=RunState.FINISHED)


class DeafBus:
    """A bus that takes everything and passes nothing on, after telling ``on_publish`` what it was given."""

    hearing = True

    def __init__(self, on_publish: Callable[[Sequence[Published]], None] | None = None) -> None:
        self._on_publish = on_publish

    def attach(self, on_published: OnPublished, on_loss: OnLoss) -> None: ...

    async def publish(self, batch: Sequence[Published]) -> None:
        if self._on_publish is not None:
            self._on_publish(batch)

    async def subscribe(self, run_id: str) -> None: ...

    async def unsubscribe(self, run_id: str) -> None: ...

    async def check(self) -> None: ...


async def publish_all(database: Database, bus: Bus) -> None:
    """Publish whatever is persisted, over ``bus``."""
    publisher = Publisher(Outbox(database), bus, Telemetry(), bus_timeout_seconds=5)
    while await publisher.sweep_once() or (await Outbox(database).backlog())[0]:
        pass


class Reading:
    """An App with the role ``api`` behind a real HTTP server in this process; the test writes and publishes itself."""

    def __init__(self, app: tailrace.App, port: int) -> None:
        self.app = app
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def services(self) -> Services:
        return self.app.services()

    @property
    def database(self) -> Database:
        return self.services.database

    async def run(self, run_id: str = "r") -> HandWrittenRun:
        return await HandWrittenRun.start(self.database, run_id)

    async def publish(self) -> None:
        """Publish what is persisted, to the streams of this process too."""
        await publish_all(self.database, self.services.bus)

    async def publish_silently(self) -> None:
        """Publish what is persisted, and lose every message of the bus."""
        await publish_all(self.database, DeafBus())

    def use(self, events: Events) -> None:
        """Read the database through ``events`` from now on."""
        self.services.events = self.services.live.events = events
        self.services.hub._events = self.services.hub._asking._events = events

    @asynccontextmanager
    async def stream(
        self, run_id: str = "r", *, query: str = "", last_event_id: str | None = None
    ) -> AsyncIterator[RawAnswer]:
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        async with request(self.port, f"{RUNS}/{run_id}/stream{query}", headers=headers) as answer:
            yield answer

    async def all_of(self, run_id: str = "r", *, query: str = "", last_event_id: str | None = None) -> list[int]:
        """Read a stream to its end and return the seqs in it."""
        async with self.stream(run_id, query=query, last_event_id=last_event_id) as answer:
            return await answer.seqs()


@asynccontextmanager
async def reading(settings: Settings, roles: Sequence[Role] = ("api",)) -> AsyncIterator[Reading]:
    """Serve an App of the given roles on a free port of this process: by our own server, or by one of ASGI."""
    app = tailrace.App(settings)

    def end_streams() -> None:
        # Asked by a signal, the App ends its streams itself; asked like this, nobody tells it.
        with contextlib.suppress(tailrace.TailraceError):
            app.services().hub.close()

    if OWN_SERVER:
        limits = Limits(write_seconds=settings.write_seconds)
        async with app.running(roles):
            listening = _listening()
            async with own_serving(app.asgi(roles=roles), listening, limits):
                try:
                    yield Reading(app, listening.getsockname()[1])
                finally:
                    end_streams()
    else:
        async with serving(app.asgi(roles=roles), on_close=end_streams) as port:
            yield Reading(app, port)


def _listening() -> socket.socket:
    listening = socket.create_server(("127.0.0.1", 0))
    # Small, so that a client that does not read is felt by the server and not hidden by the kernel.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
    return listening


@asynccontextmanager
async def serving(asgi: Any, *, on_close: Callable[[], None] = lambda: None) -> AsyncIterator[int]:
    """Serve an ASGI application with uvicorn in this process and yield its port."""
    listening = _listening()
    server = uvicorn.Server(uvicorn.Config(asgi, log_level="error", timeout_graceful_shutdown=5))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    await until(lambda: server.started or task.done(), "uvicorn has started")
    if task.done():
        await task
        raise AssertionError("uvicorn ended at once")
    try:
        yield listening.getsockname()[1]
    finally:
        on_close()
        server.should_exit = True
        await task


class RawAnswer:
    """An HTTP/1.1 answer, byte for byte; a chunked body is put together again."""

    def __init__(self, status: int, headers: list[tuple[str, str]], reader: asyncio.StreamReader) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader
        self._text = b""
        self._left = -1

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name]
        assert len(found) <= 1, f"{name} was sent {len(found)} times"
        return found[0] if found else None

    @property
    def retry_ms(self) -> int:
        """What the body says so far about reconnecting, when it says nothing else."""
        return int(self._text.removeprefix(b"retry: ").strip())

    async def block(self) -> bytes | None:
        """Return the next block with its blank line, None at the end of the body."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b"\n\n" not in self._text:
                piece = await self._piece()
                if not piece:
                    assert not self._text, f"the body was cut in {self._text[:200]!r}"
                    return None
                self._text += piece
        block, self._text = self._text.split(b"\n\n", 1)
        return block + b"\n\n"

    async def event(self) -> dict[str, Any] | None:
        """Return the next event, skipping what carries none; None at the end."""
        while (block := await self.block()) is not None:
            if block.startswith(b"id: "):
                first, second = block.decode().rstrip("\n").split("\n")
                found: dict[str, Any] = json.loads(second.removeprefix("data: "))
                assert first == f"id: {found['seq']}"
                return found
        return None

    async def upto(self, seq: int, position: int = 0) -> list[int]:
        """Read events until ``seq`` and return the seqs, which must follow ``position`` without gap or repetition."""
        seqs: list[int] = []
        while not seqs or seqs[-1] < seq:
            found = await self.event()
            assert found is not None, f"the stream ended after {seqs[-3:]}, {seq} was due"
            seqs.append(found["seq"])
        assert seqs == list(range(position + 1, seq + 1))
        return seqs

    async def seqs(self) -> list[int]:
        """Read to the end and return the seqs of the events."""
        seqs = []
        while (found := await self.event()) is not None:
            seqs.append(found["seq"])
        return seqs

    async def rest(self) -> bytes:
        """Read to the end and return what was not yet read."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while piece := await self._piece():
                self._text += piece
        text, self._text = self._text, b""
        return text

    async def _piece(self) -> bytes:
        if self.header("transfer-encoding") != "chunked":
            return await self._sized()
        if self._left == 0:
            return b""
        try:
            self._left = int(await self._reader.readuntil(b"\r\n"), 16)
            body = await self._reader.readexactly(self._left + 2)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._left = 0
            return b""
        return body[:-2]

    async def _sized(self) -> bytes:
        length = int(self.header("content-length") or "0") if self._left < 0 else self._left
        body = await self._reader.readexactly(length)
        self._left = 0
        return body


@asynccontextmanager
async def request(
    port: int,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    receive_buffer: int | None = None,
) -> AsyncIterator[RawAnswer]:
    """Send a request as it is given, without any tidying of the path, and yield the answer once its head is there."""
    connection = socket.socket()
    connection.setblocking(False)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 16)
    try:
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [line.split(": ", 1) for line in head[1:] if line]
        yield RawAnswer(int(head[0].split(" ")[1]), [(name, value) for name, value in pairs], reader)
    finally:
        writer.transport.abort()


class ServerProcess:
    """``tailrace serve`` in a process of its own, which can be stopped, killed and started again on the same port."""

    def __init__(self, settings: Settings, *, role: str = "api", **environment: str) -> None:
        assert settings.database_url is not None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._role = role
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")},
            "TAILRACE_DATABASE_URL": settings.database_url.get_secret_value(),
            "TAILRACE_DB_SCHEMA": settings.db_schema,
            "TAILRACE_LOG_LEVEL": "error",
            "TAILRACE_TX_TIMEOUT_MS": str(settings.tx_timeout_ms),
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def command(self) -> list[str]:
        """Return what is executed."""
        serve = [sys.executable, "-m", "tailrace", "serve", "--app", str(AGENTS)]
        return [*serve, "--port", str(self.port), "--role", self._role]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and return once it is ready."""
        self._process = subprocess.Popen(self.command(), env=self._environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._ready():
            assert self._process.poll() is None, f"the server ended with {self._process.returncode} at its start"
            assert time.monotonic() < deadline, "the server did not become ready"
            time.sleep(0.02)

    def stop(self) -> int:
        """Ask it to end, as a supervisor does, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=PATIENCE_SECONDS)

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx2.HTTPError:
            return False


class HookedEvents(Events):
    """Reads as ``Events`` does, and lets the test do something at the worst moment."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.before_tails: Callable[[], Any] | None = None
        self.after_tails: Callable[[], Any] | None = None
        self.after_page: Callable[[], Any] | None = None
        self.after_of_many: Callable[[], Any] | None = None
        self.pages = 0

    async def tails(self, run_ids: Sequence[str]) -> Any:
        await self._do("before_tails")
        found = await super().tails(run_ids)
        await self._do("after_tails")
        return found

    async def page(self, run_id: str, *, after: int, upto: int, limit: int, max_bytes: int) -> list[StoredEvent]:
        self.pages += 1
        found = await super().page(run_id, after=after, upto=upto, limit=limit, max_bytes=max_bytes)
        await self._do("after_page")
        return found

    async def frames(self, run_id: str, *, after: int, upto: int, part: int, event_max_bytes: int) -> Sequence[Frames]:
        self.pages += 1
        found = await super().frames(run_id, after=after, upto=upto, part=part, event_max_bytes=event_max_bytes)
        await self._do("after_page")
        return found

    async def of_many(self, wanted: Mapping[str, tuple[int, int]], limit: int) -> dict[str, list[StoredEvent]]:
        found = await super().of_many(wanted, limit)
        await self._do("after_of_many")
        return found

    async def _do(self, moment: str) -> None:
        # Once each: what the hook itself causes is not hooked again.
        hook = getattr(self, moment)
        setattr(self, moment, None)
        if hook is not None:
            await hook()


class LossyBus(MemoryBus):
    """Keeps what is published until the test lets it through: once, twice, later, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Published] = []

    async def publish(self, batch: Sequence[Published]) -> None:
        self.kept.extend(batch)

    async def let_through(self, published: Published) -> None:
        await super().publish([published])


@contextmanager
def away(services: Services) -> Iterator[None]:
    """Let every statement of the App fail inside the block, as when Postgres cannot be reached."""
    pool, services.database._pool = services.database._pool, None
    try:
        yield
    finally:
        services.database._pool = pool


async def stream_in_process(services: Services, run_id: str, position: int = 0) -> AsyncIterator[dict[str, Any]]:
    """Follow a run as the stream endpoint does, without HTTP: every event after ``position``, to the terminal one."""
    heartbeat = services.settings.heartbeat_seconds
    async with services.hub.watch(run_id) as (watched, _):
        async for chunk in follow(watched, services.events, position, heartbeat_seconds=heartbeat):
            for line in chunk.text.decode().split("\n"):
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))
