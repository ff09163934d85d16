"""The load of a round: runs that are started one after another, and clients that watch each of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx2

import tailrace
from faults.agents import KINDS
from faults.readers import SILENCE_SECONDS, LibraryReader, RawReader, Reader
from faults.servers import Server
from tailrace.errors import ApiError, ServerUnavailable

STARTS_PER_SECOND = 5.0
# Bounds what a round holds, however long its fault takes.
RUNS_MAX = 60


@dataclass(slots=True)
class Started:
    """A run of a round; ``acknowledged`` once the API has said that it exists."""

    run_id: str
    agent: str
    acknowledged: bool = False
    readers: list[Reader] = field(default_factory=list)
    refusal: str | None = None


class Load:
    """Starts runs until told to stop, and watches each with two clients."""

    def __init__(
        self, prefix: str, rng: random.Random, clients: Sequence[tuple[str, tailrace.Client]], http: httpx2.AsyncClient
    ) -> None:
        self.prefix = prefix
        self.runs: dict[str, Started] = {}
        self._rng = rng
        self._clients = clients
        self._http = http
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = True

    @property
    def readers(self) -> list[Reader]:
        """All clients of the round."""
        return [reader for run in self.runs.values() for reader in run.readers]

    @property
    def done(self) -> bool:
        """Whether every run was started and every client has come to its stream's end."""
        return not self._starting and all(task.done() for task in self._tasks)

    async def keep_starting(self) -> None:
        """Start runs, of every kind in turn, until ``stop``."""
        while self._starting and len(self.runs) < RUNS_MAX:
            number = len(self.runs)
            kind = KINDS[number % len(KINDS)]
            run = Started(f"{self.prefix}{number:03d}-{kind}", kind)
            self.runs[run.run_id] = run
            self._tasks.add(asyncio.ensure_future(self._watch(run, random.Random(self._rng.random()))))
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) / STARTS_PER_SECOND)

    def stop(self) -> None:
        """Start no more."""
        self._starting = False

    async def close(self) -> None:
        """End whatever has not ended, and raise what went wrong in the clients themselves."""
        stuck = [task for task in self._tasks if not task.done()]
        for task in stuck:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _watch(self, run: Started, rng: random.Random) -> None:
        clients = list(self._clients)
        rng.shuffle(clients)
        run.refusal = await self._start(run, clients)
        if run.refusal is not None:
            return
        run.acknowledged = True
        urls = [url for url, _ in reversed(clients)]
        run.readers += [LibraryReader(run.run_id, clients), RawReader(run.run_id, self._http, urls, rng)]
        async with asyncio.TaskGroup() as reading:
            for reader in run.readers:
                reading.create_task(reader.read())
            if run.agent == "endless":
                reading.create_task(_cancel_after(run.run_id, clients, rng.uniform(1.0, 3.0)))

    async def _start(self, run: Started, clients: Sequence[tuple[str, tailrace.Client]]) -> str | None:
        """Start the run, again and again with one key until it is acknowledged; return why it was refused."""
        for turn in range(10_000):
            _, client = clients[turn % len(clients)]
            try:
                await client.start(run.agent, {"load": self.prefix}, run_id=run.run_id, idempotency_key=run.run_id)
            except ApiError as error:
                if error.status < httpx2.codes.INTERNAL_SERVER_ERROR:
                    return str(error)
            except ServerUnavailable:
                pass
            else:
                return None
            await asyncio.sleep(0.2)
        return "never acknowledged"


@asynccontextmanager
async def clients_of(
    apis: Sequence[Server],
) -> AsyncIterator[tuple[list[tuple[str, tailrace.Client]], httpx2.AsyncClient]]:
    """Open one ``tailrace.Client`` for each API, and one plain HTTP client for the raw streams."""
    timeout = httpx2.Timeout(SILENCE_SECONDS, connect=3.0, pool=60.0)
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
    async with AsyncExitStack() as stack:
        clients = [
            (api.url, await stack.enter_async_context(tailrace.Client(api.url, silence_seconds=SILENCE_SECONDS)))
            for api in apis
        ]
        yield clients, await stack.enter_async_context(httpx2.AsyncClient(timeout=timeout, limits=limits))


async def _cancel_after(run_id: str, clients: Sequence[tuple[str, tailrace.Client]], seconds: float) -> None:
    await asyncio.sleep(seconds)
    deadline = time.monotonic() + 60
    turn = 0
    while time.monotonic() < deadline:
        _, client = clients[turn % len(clients)]
        turn += 1
        try:
            await client.cancel(run_id)
        except ApiError as error:
            if error.status < httpx2.codes.INTERNAL_SERVER_ERROR:
                return
        except ServerUnavailable:
            pass
        else:
            return
        await asyncio.sleep(0.2)
