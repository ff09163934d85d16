"""What the tests of the write side share: making runs, checking a log against every invariant, hearing what is told."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import asyncpg

from tailrace.bus.bus import OnLoss, OnPublished, Published
from tailrace.errors import BusUnavailable
from tailrace.http.services import Services
from tailrace.model import draft
from tailrace.model.draft import Draft
from tailrace.model.event import TERMINAL_TYPES, EventType, StoredEvent
from tailrace.model.run import STATE_AFTER, Lease, RunRow, RunState
from tailrace.runtime import ROLES, Role, run_roles
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.events import Events, RunAppend
from tailrace.store.leases import Leases
from tailrace.store.outbox import OutboxTransaction
from tailrace.store.runs import RunRequest, Runs
from tailrace.telemetry import Happening, Telemetry
from tailrace.worker.duties import Duty, perform
from tailrace.worker.execution import Agent
from tailrace.write.orchestrate import Orchestrator
from tests.patience import PATIENCE_SECONDS

NOW_MS = 1_790_000_000_000
AGENT = "agent"

_IDS = itertools.count(1)

H = TypeVar("H")
T = TypeVar("T")


async def execute(database: Database, sql: str, *args: Any) -> str:
    """Run raw SQL; ``tailrace.`` names the test's schema, as in the statement files."""
    async with database.connection() as connection:
        return await connection.execute(sql.replace("tailrace.", f'"{database.schema}".'), *args)


async def fetch(database: Database, sql: str, *args: Any) -> list[asyncpg.Record]:
    async with database.connection() as connection:
        return await connection.fetch(sql.replace("tailrace.", f'"{database.schema}".'), *args)


async def value(database: Database, sql: str, *args: Any) -> Any:
    async with database.connection() as connection:
        return await connection.fetchval(sql.replace("tailrace.", f'"{database.schema}".'), *args)


async def queued(runs: Runs, *, agent: str = AGENT, run_id: str | None = None, input_text: str | None = None) -> str:
    """Create a queued run and return its id."""
    run_id = run_id or f"run-{next(_IDS)}"
    await runs.create(RunRequest(run_id, agent, input_text, NOW_MS))
    return run_id


async def claim(leases: Leases, *, worker: str = "w1", limit: int = 1, lease_seconds: float = 3600) -> list[Lease]:
    return await leases.claim(worker=worker, agents=[AGENT], limit=limit, lease_seconds=lease_seconds)


async def started(runs: Runs, leases: Leases, *, worker: str = "w1") -> Lease:
    """Create a run, claim it and return the lease."""
    run_id = await queued(runs)
    (lease,) = await claim(leases, worker=worker)
    assert lease.run_id == run_id
    return lease


async def expire(database: Database, run_id: str) -> None:
    """Let a run's lease end as if its worker had died a second ago."""
    done = await execute(
        database,
        "update tailrace.runs set lease_until = clock_timestamp() - interval '1 second'"
        " where id = $1 and state = 'started'",
        run_id,
    )
    assert done == "UPDATE 1"


def traces(count: int, prefix: str = "t") -> list[Draft]:
    return [draft.debug_trace(f"{prefix}{number}", NOW_MS) for number in range(count)]


def add(lease: Lease, first_seq: int, drafts: Sequence[Draft], *, state: RunState | None = None) -> RunAppend:
    return RunAppend(lease.run_id, lease.epoch, first_seq, drafts, state=state)


async def fill(events: Events, lease: Lease, count: int, *, ends: bool = False) -> None:
    """Append ``count`` traces right after RunStarted, and RunFinished when the run ``ends``."""
    drafts = traces(count) + ([draft.run_finished(NOW_MS)] if ends else [])
    await events.append([add(lease, 2, drafts, state=RunState.FINISHED if ends else None)])


async def verified_log(database: Database, run_id: str) -> list[StoredEvent]:
    """Return a run's log after comparing it with invariants 1, 2 and 4 of the contract, as they were at one moment."""
    schema = f'"{database.schema}"'
    async with database.connection() as connection, connection.transaction(isolation="repeatable_read"):
        run = await connection.fetchrow(f"select * from {schema}.runs where id = $1", run_id)
        rows = await connection.fetch(f"select * from {schema}.run_events where run_id = $1 order by seq", run_id)
        next_seq = await connection.fetchval(f"select next_seq from {schema}.run_outbox where run_id = $1", run_id)
    assert run is not None
    assert [row["seq"] for row in rows] == list(range(1, run["last_seq"] + 1))
    assert rows[0]["type"] == EventType.RUN_STARTED
    terminal = [row for row in rows if row["type"] in TERMINAL_TYPES]
    assert len(terminal) <= 1
    if terminal:
        assert terminal[0] is rows[-1]
        assert run["state"] == STATE_AFTER[EventType(terminal[0]["type"])]
    else:
        assert run["state"] in (RunState.QUEUED, RunState.STARTED)
    assert [row["seq"] for row in rows if row["published_at"] is not None] == list(range(1, next_seq))
    epochs = [row["epoch"] for row in rows]
    assert epochs == sorted(epochs)
    assert epochs[-1] <= run["epoch"]
    return [
        StoredEvent(row["run_id"], row["seq"], row["ts"], row["type"], row["name"], row["fn"], row["data"])
        for row in rows
    ]


def types(log: Sequence[StoredEvent]) -> list[str]:
    return [event.type for event in log]


class Told:
    """An exporter on which a test waits until something has been told."""

    def __init__(self) -> None:
        self.all: list[Happening] = []
        self._news = asyncio.Event()

    def __call__(self, happening: Happening) -> None:
        self.all.append(happening)
        self._news.set()

    def of(self, kind: type[H], **fields: object) -> list[H]:
        """Return what was told so far of this kind, with these fields."""
        return [
            happening
            for happening in self.all
            if isinstance(happening, kind)
            and all(getattr(happening, field) == wanted for field, wanted in fields.items())
        ]

    async def until(self, kind: type[H], *, count: int = 1, **fields: object) -> H:
        """Wait until that was told ``count`` times, and return the last."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(found := self.of(kind, **fields)) < count:
                self._news.clear()
                await self._news.wait()
        return found[-1]


async def until(look: Callable[[], Awaitable[T | None]]) -> T:
    """Ask the database again and again until ``look`` finds something."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (found := await look()) is None:  # noqa: ASYNC110 - it happens in Postgres, which sets no Event
            await asyncio.sleep(0.005)
    return found


async def until_ended(services: Services, run_id: str) -> RunRow:
    """Wait until a run has ended and is published, and return it."""

    async def ended() -> RunRow | None:
        run = await services.runs.get(run_id)
        return run if run.finished_at is not None and run.backlog == 0 else None

    return await until(ended)


@asynccontextmanager
async def starting(orchestrator: Orchestrator, telemetry: Telemetry) -> AsyncIterator[Orchestrator]:
    """Perform, inside the block, the duty without which nothing starts."""
    starter = orchestrator.starter
    task = asyncio.create_task(perform(Duty("starter.flush", starter.flush_once, 60.0, starter.work), telemetry))
    try:
        yield orchestrator
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until_waiting_for_a_lock(database: Database, count: int = 1) -> None:
    """Wait until ``count`` sessions of this database wait for a row lock."""

    async def blocked() -> bool | None:
        found = await value(
            database,
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        return True if found >= count else None

    await until(blocked)


async def shorten_idle(frozen: OutboxTransaction) -> None:
    """Let the bound on this session, which it must have, end it a quarter of a second from now."""
    connection = frozen._connection
    bound = await connection.fetchval("select current_setting('idle_in_transaction_session_timeout')::interval")
    assert bound == timedelta(seconds=PATIENCE_SECONDS)
    await connection.execute("set idle_in_transaction_session_timeout = 250")


@dataclass
class Running:
    """An App in this process, and what it tells."""

    services: Services
    told: Told

    async def start(self, agent: str = AGENT, input_value: object = None, *, run_id: str | None = None) -> str:
        run, _ = await self.services.orchestrator.start(agent, input_value, run_id=run_id)
        return run.id

    async def ended(self, run_id: str) -> RunRow:
        return await until_ended(self.services, run_id)


@asynccontextmanager
async def running(
    settings: Settings, agents: Mapping[str, Agent] | Agent, roles: Sequence[Role] = ROLES
) -> AsyncIterator[Running]:
    """Run the roles with the agents, or with one agent named ``AGENT``."""
    told = Told()
    named = agents if isinstance(agents, Mapping) else {AGENT: agents}
    async with run_roles(settings, named, roles, exporters=[told]) as services:
        yield Running(services, told)


class RecordingBus:
    """A bus that keeps what it is handed, in the order in which it is handed over."""

    hearing = True

    def __init__(self) -> None:
        self.received: dict[str, list[int]] = {}
        self.events: dict[str, list[StoredEvent]] = {}
        self.batches = 0
        self.refused: set[str] = set()
        self.before: Callable[[], Awaitable[None]] | None = None
        self.after: Callable[[], Awaitable[None]] | None = None

    def attach(self, on_published: OnPublished, on_loss: OnLoss) -> None: ...

    async def publish(self, batch: Sequence[Published]) -> None:
        if self.before is not None:
            await self.before()
        if refused := sorted(self.refused & {published.run_id for published in batch}):
            raise BusUnavailable(f"refused {refused}")
        self.batches += 1
        for published in batch:
            assert published.last_seq == published.events[-1].seq
            self.received.setdefault(published.run_id, []).extend(event.seq for event in published.events)
            self.events.setdefault(published.run_id, []).extend(published.events)
        if self.after is not None:
            await self.after()

    async def subscribe(self, run_id: str) -> None: ...

    async def unsubscribe(self, run_id: str) -> None: ...

    async def check(self) -> None: ...


def first_times(seqs: Sequence[int]) -> list[int]:
    """Return the seqs as a reader that drops what it has already keeps them."""
    kept: list[int] = []
    for seq in seqs:
        if not kept or seq > kept[-1]:
            kept.append(seq)
    return kept
