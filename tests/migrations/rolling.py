"""A rolling upgrade from one tree of sources to another, with real processes, and clients that see nothing of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

import tailrace
from tailrace.model.event import TERMINAL_TYPES, Event
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.testing import await_stream_completion
from tests.outage_support import Line, Served, served
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS, opened
from tests.write_support import until, verified_log

AGENTS = Path(__file__).parent / "agents.py"
COUNTING = 4
# What each stream brings on, after each step, before the next is taken.
FURTHER = 20


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended."""

    code: int
    text: str


@dataclass
class Watched:
    """A run and what its client has received; the client stays at one address for the whole of it."""

    run_id: str
    events: list[Event] = field(default_factory=list)

    async def watch(self, url: str) -> None:
        async with tailrace.Client(url) as client:
            await await_stream_completion(self._kept(client), timeout=4 * PATIENCE_SECONDS)

    async def _kept(self, client: tailrace.Client) -> AsyncIterator[Event]:
        async for event in client.stream(self.run_id):
            self.events.append(event)
            yield event


async def command(settings: Settings, sources: Path, *words: str) -> Said:
    """Run `tailrace` from a tree of sources to its end."""
    assert settings.database_url is not None
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tailrace", *words,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")},
            "TAILRACE_DATABASE_URL": settings.database_url.get_secret_value(),
            "TAILRACE_DB_SCHEMA": settings.db_schema,
            "PYTHONPATH": str(sources),
        },
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(2 * PATIENCE_SECONDS):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Said(process.returncode, out.decode())


async def roll(settings: Settings, database: Database, old: Path, new: Path, folder: Path) -> list[str]:
    """Upgrade a service in use from ``old`` to ``new``, and return what was seen, for a person to read.

    Three runs are executed and followed by old processes, one of which dies after the database was upgraded; then the
    new ones come, the old ones leave, and the clients, who know one address, have every event once.
    """
    seen: list[str] = []
    made = await command(settings, old, "db", "upgrade")
    assert made.code == 0, made.text
    await _refused(await command(settings, new, "serve", "--port", "0"), "tailrace db upgrade", seen, "new on old")
    async with (
        served(settings, app=AGENTS, PYTHONPATH=str(old)) as stays,
        served(settings, app=AGENTS, PYTHONPATH=str(old)) as dies,
        Line(stays.address).running() as door,
        asyncio.TaskGroup() as tasks,
    ):
        url = f"http://127.0.0.1:{door.port}"
        async with tailrace.Client(url) as client:
            runs = [Watched((await client.start("counting", str(folder))).run_id) for _ in range(COUNTING)]
            for run in runs:
                tasks.create_task(run.watch(url))
            await _further(runs)
            upgraded = await command(settings, new, "db", "upgrade")
            assert upgraded.code == 0, upgraded.text
            seen.append(f"upgrade beside {COUNTING} runs: {upgraded.text.strip()}")
            await _further(runs)
            ended = Watched((await client.start("short")).run_id)
            await ended.watch(url)
            seen.append(f"an old process started, executed and streamed a new run: {len(ended.events)} events")
            seen.append(f"an old process answers /readyz with {await _ready(stays)}")
            await dies.kill()
            await _further(runs)
            await _refused(await command(settings, old, "serve", "--port", "0"), "newer than", seen, "old on new")
            async with served(settings, app=AGENTS, PYTHONPATH=str(new)) as comes:
                seen.append(f"a new process answers /readyz with {await _ready(comes)}")
                door.lead_to(comes.address)
                stays.process.send_signal(signal.SIGTERM)
                seen.append(f"the old process left with exit code {await stays.process.wait()}")
                await _further(runs)
                later = Watched((await client.start("short")).run_id)
                await later.watch(url)
                (folder / "enough").touch()
                await until(lambda: _all_ended(runs))
    for run in [*runs, ended, later]:
        log = await verified_log(database, run.run_id)
        assert [event.seq for event in run.events] == list(range(1, len(log) + 1))
        assert [event.type for event in run.events] == [event.type for event in log]
    resumed = [sum(event.fn == "run.resumed" for event in run.events) for run in runs]
    seen.append(f"{sum(len(run.events) for run in runs)} events, each once; take-overs a run: {resumed}")
    return seen


async def _further(runs: Sequence[Watched]) -> None:
    """Wait until every stream has brought some more."""
    wanted = {run.run_id: len(run.events) + FURTHER for run in runs}

    async def brought() -> bool | None:
        return True if all(len(run.events) >= wanted[run.run_id] for run in runs) else None

    await until(brought)


async def _all_ended(runs: Sequence[Watched]) -> bool | None:
    return True if all(run.events[-1].type in TERMINAL_TYPES for run in runs) else None


async def _ready(process: Served) -> str:
    async with httpx2.AsyncClient(base_url=process.address, timeout=PATIENCE_SECONDS) as http:
        answer = await http.get("/readyz")
    return f"{answer.status_code} {answer.text}"


async def _refused(said: Said, why: str, seen: list[str], what: str) -> None:
    assert said.code == 1, said.text
    assert why in said.text
    assert "Traceback" not in said.text
    seen.append(f"{what}: exit 1, {said.text.strip()}")


@asynccontextmanager
async def fresh_schema(url: str, name: str) -> AsyncIterator[Database]:
    """A schema that does not exist yet, dropped at the end."""
    async with opened(Database(url, schema=name, tx_timeout_ms=PATIENCE_MS)) as database:
        try:
            yield database
        finally:
            async with database.connection() as connection:
                await connection.execute(f'drop schema if exists "{name}" cascade')
