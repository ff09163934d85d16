"""The buses under test.  A new one is one more ``Medium`` here, and the whole suite runs on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tailrace.bus.bus import Bus, Published
from tailrace.bus.linked import LinkedBus, Wire
from tailrace.bus.local_first import LocalFirst
from tailrace.bus.memory import MemoryBus
from tailrace.bus.nats import NatsWire
from tailrace.bus.postgres import PostgresBus
from tailrace.bus.redis import RedisWire
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.doorbell import Doorbell
from tailrace.telemetry import Telemetry
from tailrace.worker.duties import Duty, perform
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS, tried_again
from tests.proxy import Proxy, proxied
from tests.read_support import until
from tests.servers import Server, valkey
from tests.servers import nats as nats_server


@dataclass
class Process:
    """One process's end of a bus, and what it has heard."""

    bus: Bus
    heard: list[Published] = field(default_factory=list)
    losses: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.bus.attach(self._hear, self._lose)

    def seqs(self, run_id: str) -> list[int]:
        """The last seqs heard for a run, in the order they came."""
        return [published.last_seq for published in self.heard if published.run_id == run_id]

    async def hears(self, run_id: str, upto: int) -> None:
        """Wait until this process knows that the run is published up to a seq."""
        await self._until(lambda: upto in self.seqs(run_id), f"run {run_id[:20]} was heard up to {upto}")

    async def loses(self, count: int = 1) -> None:
        """Wait until the bus has said so often that it may have lost something."""
        await self._until(lambda: self.losses >= count, f"{count} losses were announced")

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"waited until {what}; heard {self.heard[-5:]}, {self.losses} losses") from None

    def _hear(self, published: Published) -> None:
        self.heard.append(published)
        self._news.set()

    def _lose(self) -> None:
        self.losses += 1
        self._news.set()


@dataclass
class Medium:
    """One kind of bus.

    ``new_process`` opens the bus as another process would, ``others`` says whether other processes hear it at all.
    ``break_connections`` cuts what the processes receive by and returns how many were cut.  ``server`` is what stands
    behind a bus that has a server of its own, ``namespaced`` opens the bus as a process of another deployment would.
    """

    new_process: Callable[[], Awaitable[Process]]
    others: bool
    break_connections: Callable[[], Awaitable[int]] | None = None
    server: Server | None = None
    proxy: Proxy | None = None
    namespaced: Callable[[str], Awaitable[Process]] | None = None

    async def pair(self) -> tuple[Process, Process]:
        """Return a process that publishes and one that hears it."""
        publisher = await self.new_process()
        return publisher, await self.new_process() if self.others else publisher


@asynccontextmanager
async def memory(_: Settings) -> AsyncIterator[Medium]:
    """``memory://``."""

    async def new_process() -> Process:
        return Process(MemoryBus())

    yield Medium(new_process, others=False)


@asynccontextmanager
async def postgres(settings: Settings) -> AsyncIterator[Medium]:
    """``postgres://`` by itself: a doorbell does not hear its own rings."""
    async with _over_postgres(settings, lambda bus: bus) as new_process:
        yield Medium(new_process, others=True, break_connections=lambda: _cut_listeners(settings))


@asynccontextmanager
async def local_first(settings: Settings) -> AsyncIterator[Medium]:
    """``postgres://`` as an App uses it: its own process first and directly."""
    async with _over_postgres(settings, LocalFirst) as new_process:
        yield Medium(new_process, others=True, break_connections=lambda: _cut_listeners(settings))


@asynccontextmanager
async def redis(settings: Settings) -> AsyncIterator[Medium]:
    """``redis://``, on a Valkey."""
    with TemporaryDirectory() as folder, valkey(Path(folder)) as server:
        async with _linked(settings, server, lambda port, name: RedisWire(f"redis://127.0.0.1:{port}", name)) as medium:
            yield medium


@asynccontextmanager
async def nats(settings: Settings) -> AsyncIterator[Medium]:
    """``nats://``."""
    with TemporaryDirectory() as folder, nats_server(Path(folder)) as server:
        async with _linked(settings, server, lambda port, name: NatsWire(f"nats://127.0.0.1:{port}", name)) as medium:
            yield medium


MEDIA = {"memory": memory, "postgres": postgres, "local-first": local_first, "redis": redis, "nats": nats}
BETWEEN_PROCESSES = ("postgres", "local-first", "redis", "nats")
CONNECTED = ("postgres", "local-first", "redis", "nats")
# Without the first half that serves the own process.
ALONE = ("postgres", "redis", "nats")
WITH_A_SERVER = ("redis", "nats")
OWN_PROCESS_FIRST = ("memory", "local-first")
IN_TWO_HALVES = ("local-first",)


@asynccontextmanager
async def _over_postgres(
    settings: Settings, wrap: Callable[[PostgresBus], Bus]
) -> AsyncIterator[Callable[[], Awaitable[Process]]]:
    others: list[Doorbell] = []
    async with AsyncExitStack() as stack:

        async def new_process() -> Process:
            database = await opened(settings)
            stack.push_async_callback(database.close)
            doorbell = Doorbell(database, Telemetry())
            process = Process(wrap(PostgresBus(doorbell, patience_seconds=PATIENCE_SECONDS)))
            duty = Duty("doorbell.listen", doorbell.listen_once, 0.05)
            task = asyncio.create_task(perform(duty, Telemetry()))
            stack.push_async_callback(_ended, task)
            await until(lambda: doorbell.hearing, "the doorbell hears")
            # One that believes that it is alone rings nobody.  It hears of the others by their answer, which waits for
            # a flush; that is a duty's, and there is none here.
            for other in others:
                await until(lambda other=other: other.others >= len(others), "the others have heard it")  # type: ignore[misc] # its default
                await other.flush()
            await until(lambda: doorbell.others >= len(others), "it has heard the others")
            others.append(doorbell)
            return process

        yield new_process


@asynccontextmanager
async def _linked(settings: Settings, server: Server, wire: Callable[[int, str], Wire]) -> AsyncIterator[Medium]:
    async with proxied(server.port) as proxy, AsyncExitStack() as stack:

        async def namespaced(namespace: str) -> Process:
            bus = LinkedBus(wire(proxy.port, namespace), Telemetry(), patience_seconds=PATIENCE_SECONDS)
            process = Process(bus)
            await stack.enter_async_context(linking(bus))
            return process

        async def cut() -> int:
            return proxy.cut()

        yield Medium(
            lambda: namespaced(settings.db_schema),
            others=True,
            break_connections=cut,
            server=server,
            proxy=proxy,
            namespaced=namespaced,
        )


@asynccontextmanager
async def linking(bus: LinkedBus, telemetry: Telemetry | None = None, *, wait: bool = True) -> AsyncIterator[None]:
    """Keep a bus linked inside the block, as the duty of a process does."""
    duty = Duty("bus.link", bus.link_once, 0.02)
    task = asyncio.create_task(perform(duty, telemetry or Telemetry()))
    try:
        if wait:
            await until(lambda: bus.hearing, "the bus is linked")
        yield
    finally:
        await _ended(task)


async def opened(settings: Settings) -> Database:
    """Return a pool of its own on the test's schema."""
    assert settings.database_url is not None
    database = Database(settings.database_url.get_secret_value(), schema=settings.db_schema, tx_timeout_ms=PATIENCE_MS)
    await tried_again(database.open)
    return database


async def _cut_listeners(settings: Settings) -> int:
    """End every LISTEN connection of the test's schema from Postgres's side and return how many there were."""
    database = await opened(settings)
    try:
        async with database.connection() as connection:
            cut = await connection.fetch(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() "
                "and query ilike $1 and pid <> pg_backend_pid()",
                f"listen%tailrace_{settings.db_schema}%",
            )
            return len(cut)
    finally:
        await database.close()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
