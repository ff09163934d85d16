"""``tailrace serve`` as a process of its own, the runs that it is to execute, and the client that follows them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from tailrace.bench.children import PATIENCE_SECONDS, BenchError, PostgresCpu, child, cpu_seconds, line
from tailrace.bench.load import Plan
from tailrace.bench.place import Place
from tailrace.client import Client

# The client reads a quarter of a megabyte at a time; the C library would ask the kernel for each such buffer anew,
# which takes as long as the counting (measured).
KEPT_BUFFERS = {"MALLOC_TRIM_THRESHOLD_": str(2**26), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
STARTS_AT_ONCE = 20


@dataclass(slots=True)
class Served:
    """A running server: where it listens, its process, and its Postgres."""

    place: Place
    url: str
    pid: int
    postgres: PostgresCpu

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return urlsplit(self.url).port or 80

    async def start(self, agent: str, inputs: Sequence[Mapping[str, object]]) -> list[str]:
        """Start one run for each input and return their ids."""
        slots = asyncio.Semaphore(STARTS_AT_ONCE)
        async with Client(self.url) as client:

            async def one(value: Mapping[str, object]) -> str:
                async with slots:
                    return (await client.start(agent, dict(value))).run_id

            return await asyncio.gather(*(one(value) for value in inputs))

    def cpu(self) -> tuple[float | None, float | None]:
        """Return the CPU seconds so far: the server's and Postgres's."""
        return cpu_seconds([self.pid]), self.postgres.seconds()


@dataclass(frozen=True, slots=True)
class Arrived:
    """What came to the clients of one group; times in milliseconds and nanoseconds since the Unix epoch."""

    streams: int
    received: int
    done: int
    least: int
    opened_ns: int
    first_ns: int
    last_ns: int
    timed: int
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0

    @property
    def seconds(self) -> float:
        """From the first event received to the last."""
        return (self.last_ns - self.first_ns) / 1e9


class Loading:
    """The client's process, between ``ready`` and the end."""

    def __init__(self, process: asyncio.subprocess.Process, plan: Plan, place: Place) -> None:
        self._process = process
        self._plan = plan
        self._place = place

    async def arrived(self) -> dict[str, Arrived]:
        """Wait for the end and return what came, by group.

        :raises BenchError: a stream was refused, or nothing came.
        """
        text = await line(self._process, self._place.folder, seconds=self._plan.seconds + PATIENCE_SECONDS)
        document = json.loads(text)
        if document["refused"]:
            raise BenchError(f"{document['refused']} of {len(self._plan.streams)} streams were refused")
        if empty := [name for name, group in document["groups"].items() if not group["received"]]:
            raise BenchError(f"nothing arrived on the streams of {', '.join(empty)}")
        return {name: Arrived(**group) for name, group in document["groups"].items()}


@asynccontextmanager
async def serving(place: Place, *roles: str) -> AsyncIterator[Served]:
    """Serve the agents of the bench inside the block, on a port that the system picks; all roles, or one."""
    command = [sys.executable, "-m", "tailrace", "serve", "--app", "tailrace.bench.agents", "--port", "0"]
    if roles:
        command += ["--role", *roles]
    async with child(command, environment=own_environment() | place.environment(), folder=place.folder) as process:
        said = await line(process, place.folder)
        yield Served(place, said.rpartition(" ")[2], process.pid, await PostgresCpu.find(place.url))


@asynccontextmanager
async def loading(place: Place, plan: Plan) -> AsyncIterator[Loading]:
    """Open the plan's streams; the block is entered once each is answered."""
    command = [sys.executable, "-m", "tailrace.bench.load"]
    async with child(command, environment=own_environment() | KEPT_BUFFERS, folder=place.folder) as process:
        assert process.stdin is not None  # noqa: S101 - `child` gives every one a pipe
        process.stdin.write(json.dumps(asdict(plan)).encode() + b"\n")
        await process.stdin.drain()
        if await line(process, place.folder) != "ready":
            raise BenchError("the client of the measurement did not get ready")
        yield Loading(process, plan, place)


def stream_path(run_id: str, from_seq: int = 0) -> str:
    """Return the path of a run's stream."""
    return f"/api/agents/runs/{run_id}/stream?fromSeq={from_seq}"


def own_environment() -> dict[str, str]:
    """Return the environment without what would configure a Tailrace."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_") and name != "DATABASE_URL"
    }
