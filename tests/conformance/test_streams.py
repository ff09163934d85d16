"""Streams over every bus: whatever it loses, repeats, reorders, and however long it is away, each stream ends."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import pytest

from tailrace.bus.bus import OnPublished, Published
from tailrace.errors import BusUnavailable
from tailrace.runtime import ROLES
from tailrace.settings import Settings
from tailrace.telemetry import BusLost, BusRestored, DutyFailed
from tailrace.worker.execution import Agent
from tailrace.worker.run import Run
from tests.patience import PATIENCE_SECONDS
from tests.read_support import reading, stream_in_process, until
from tests.servers import Server, nats, valkey
from tests.write_support import Running, fetch, running, verified_log
from tests.write_support import until as until_found

# How long the bus is away; a minute is as good, and takes a minute.
OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "3"))
BUSES = ("memory", "postgres", "redis", "nats")
SERVERS: dict[str, Callable[[Path], Server]] = {"redis": valkey, "nats": nats}


@dataclass
class Deployment:
    """A process that executes and publishes, one that serves streams (the same over ``memory://``), and their bus."""

    writing: Running
    reading: Running
    server: Server | None

    async def stream(self, run_id: str, seen: list[int]) -> None:
        """Read a run's stream to its end in the other process."""
        async for event in stream_in_process(self.reading.services, run_id):
            seen.append(event["seq"])  # noqa: PERF401 - each as it comes, for the test looks at them meanwhile

    def be_patient(self) -> None:
        """Let no answer of the bus that is merely late count as an outage."""
        for process in (self.writing, self.reading):
            remote = getattr(process.services.bus, "_remote", None)
            if remote is not None:
                remote._patience_seconds = PATIENCE_SECONDS

    async def linked(self) -> None:
        """Wait until both processes hear each other."""
        buses = [process.services.bus for process in (self.writing, self.reading)]
        await until(lambda: all(bus.hearing for bus in buses), "both processes are on the bus")


@asynccontextmanager
async def deployed(kind: str, settings: Callable[..., Settings], agent: Agent) -> AsyncIterator[Deployment]:
    """Run the processes over a bus of this kind, with a server of its own if it needs one."""
    with TemporaryDirectory() as folder:
        server = SERVERS[kind](Path(folder)) if kind in SERVERS else None
        port = f"127.0.0.1:{server.port}" if server is not None else ""
        chosen = settings(bus_url=f"{kind}://{port}", heartbeat_seconds=0.5)
        if server is not None:
            server.start()
        try:
            if kind == "memory":
                async with running(chosen, agent, ROLES) as both:
                    yield Deployment(both, both, None)
            else:
                async with (
                    running(chosen, agent, ["worker", "outbox"]) as writing,
                    running(chosen, {}, ["api"]) as reading,
                ):
                    deployment = Deployment(writing, reading, server)
                    await deployment.linked()
                    deployment.be_patient()
                    yield deployment
        finally:
            if server is not None:
                server.kill()


class Meddler:
    """Passes on what a bus brings: lost, once, twice, or after later ones."""

    def __init__(self, receiver: OnPublished) -> None:
        self._receiver = receiver
        self._random = random.Random(11)  # noqa: S311 - the same trouble every time
        self._held: list[Published] = []
        self.lost = self.repeated = self.late = 0

    def __call__(self, published: Published) -> None:
        match self._random.randrange(4):
            case 0:
                self.lost += 1
            case 1:
                self.repeated += 1
                self._receiver(published)
                self._receiver(published)
            case 2:
                self.late += 1
                self._held.append(published)
            case _:
                self._receiver(published)
                for held in reversed(self._held):
                    self._receiver(held)
                self._held.clear()


@pytest.mark.parametrize("kind", BUSES)
async def test_a_stream_is_whole_though_messages_are_lost_repeated_and_reordered(
    kind: str, settings: Callable[..., Settings]
) -> None:
    """Every event once, in order, to the terminal one: what the bus did not bring the database does."""

    followed = asyncio.Event()

    async def agent(run: Run) -> None:
        await followed.wait()  # else the bus might have brought everything before anybody listened
        for number in range(60):
            await run.emit("Progress", {"number": number})

    async with deployed(kind, settings, agent) as deployment:
        hub = deployment.reading.services.hub
        meddler = Meddler(hub._published)
        deployment.reading.services.bus.attach(meddler, hub.check_tails.set)
        run_ids = [await deployment.writing.start() for _ in range(4)]
        seen: dict[str, list[int]] = {run_id: [] for run_id in run_ids}
        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            for run_id, seqs in seen.items():
                group.create_task(deployment.stream(run_id, seqs))
            await until(lambda: all(seen.values()), "every stream has begun")
            followed.set()
        for seqs in seen.values():
            assert seqs == list(range(1, 63))
        assert meddler.lost + meddler.repeated + meddler.late > 0


async def few_are_unpublished(process: Running, count: int) -> bool | None:
    return True if (await process.services.outbox.backlog())[0] < count else None


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_bus_that_is_away_costs_latency_and_every_stream_ends(
    kind: str, settings: Callable[..., Settings]
) -> None:
    """Killed in the middle of runs: publication goes on, streams go on, new ones begin and end, and it is told once.

    ``OUTAGE_SECONDS=60`` makes it a minute.
    """
    back = asyncio.Event()

    async def agent(run: Run) -> None:
        while not back.is_set() and run.input != "short":
            await run.emit("Progress")
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await back.wait()
        await run.emit("Back")

    async with deployed(kind, settings, agent) as deployment:
        server, writing, reading = deployment.server, deployment.writing, deployment.reading
        assert server is not None
        run_ids = [await writing.start() for _ in range(3)]
        seen: dict[str, list[int]] = {run_id: [] for run_id in run_ids}
        async with asyncio.timeout(OUTAGE_SECONDS + 2 * PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            for run_id, seqs in seen.items():
                group.create_task(deployment.stream(run_id, seqs))
            await until(lambda: all(seqs for seqs in seen.values()), "every stream has begun")
            server.kill()
            await writing.told.until(BusLost)
            await reading.told.until(BusLost)
            for process in (writing, reading):
                with pytest.raises(BusUnavailable, match=f"{kind}://127.0.0.1:{server.port} is away"):
                    await process.services.bus.check()
            lengths = {run_id: len(seqs) for run_id, seqs in seen.items()}
            until_back = asyncio.get_running_loop().time() + OUTAGE_SECONDS
            while True:
                # One run after another begins and ends while the bus is away, and so does its stream.
                short = await writing.start(input_value="short")
                seen[short] = []
                await deployment.stream(short, seen[short])
                if asyncio.get_running_loop().time() > until_back:
                    break
            # While it is away everything is published and reaches the streams of the other process.
            await until(lambda: all(len(seen[run_id]) > length for run_id, length in lengths.items()), "they go on")
            assert all(seqs == [1, 2, 3] for run_id, seqs in seen.items() if run_id not in lengths)
            await until_found(lambda: few_are_unpublished(writing, len(run_ids) * 5))
            server.start()
            await deployment.linked()
            back.set()
        for run_id, seqs in seen.items():
            assert seqs == [event.seq for event in await verified_log(writing.services.database, run_id)]
        for process in (writing, reading):
            await process.services.bus.check()
            assert len(process.told.of(BusLost)) == len(process.told.of(BusRestored)) == 1
            assert process.told.of(DutyFailed) == []


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_process_starts_while_the_bus_is_away(kind: str, settings: Callable[..., Settings]) -> None:
    """It says so and is not ready, its streams work, and it joins the bus when that comes."""

    async def agent(run: Run) -> None:
        await run.emit("Progress")

    with TemporaryDirectory() as folder:
        server = SERVERS[kind](Path(folder))
        url = f"{kind}://someone:s3cret@127.0.0.1:{server.port}"
        chosen = settings(bus_url=url, heartbeat_seconds=0.5)
        assert "s3cret" not in repr(chosen)
        async with running(chosen, agent) as process:
            lost = await process.told.until(BusLost)
            with pytest.raises(BusUnavailable) as away:
                await process.services.bus.check()
            assert "s3cret" not in f"{lost} {away.value}"
            seen = [event["seq"] async for event in stream_in_process(process.services, await process.start())]
            assert seen == [1, 2, 3]


async def test_a_process_has_one_listening_connection_however_many_streams(settings: Callable[..., Settings]) -> None:
    """The cost of NOTIFY grows with the listeners: one a process, never one a client."""

    async def agent(run: Run) -> None:
        await asyncio.Event().wait()

    async with deployed("postgres", settings, agent) as deployment:
        run_ids = [await deployment.writing.start() for _ in range(10)]
        seen: list[list[int]] = [[] for _ in range(100)]
        tasks = [asyncio.create_task(deployment.stream(run_ids[n % 10], seqs)) for n, seqs in enumerate(seen)]
        await until(lambda: all(seen), "every stream has begun")
        database = deployment.writing.services.database
        found = await fetch(
            database,
            "select count(*) as listening from pg_stat_activity where datname = current_database()"
            " and query ilike $1 and pid <> pg_backend_pid()",
            f"listen%tailrace_{database.schema}%",
        )
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert found[0]["listening"] == 2, "one for each of the two processes"


@pytest.mark.parametrize("kind", SERVERS)
async def test_readiness_says_when_the_bus_is_away(
    kind: str, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """503 with what is not there, and 200 again when it is back; without the password."""
    with SERVERS[kind](tmp_path) as server:
        chosen = settings(bus_url=f"{kind}://127.0.0.1:{server.port}")
        async with reading(chosen) as api, httpx2.AsyncClient(base_url=api.url, timeout=PATIENCE_SECONDS) as http:

            async def answers(status: int) -> httpx2.Response:
                while (answer := await http.get("/readyz")).status_code != status:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                return answer

            async with asyncio.timeout(PATIENCE_SECONDS):
                await answers(200)
                server.kill()
                assert f"the bus {kind}://127.0.0.1:{server.port} is away" in (await answers(503)).json()["detail"]
                server.start()
                await answers(200)
