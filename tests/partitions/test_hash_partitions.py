"""The write path, the outbox and the read path on tables that are partitioned by the hash of ``run_id``."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

import tailrace
from tailrace.http.server import serving
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.leases import Leases
from tailrace.store.queries import query
from tailrace.store.runs import Runs
from tests.write_support import execute, fetch, queued, until, until_ended, value, verified_log

SCRIPT = Path(__file__).parent.parent.parent / "deploy" / "postgres" / "partition.sql"
BIG_TABLES = ("run_events", "run_outbox", "run_steps")
PARTITIONS = 16
RUNS = 40


async def work(run: tailrace.Run) -> dict[str, int]:
    """Write what every kind of event has: nodes, traces, a kept step, data."""
    async with run.node("Walk"):
        await run.trace("walk")
    size = await run.step("Measure", len, "rivers")
    await asyncio.gather(*(run.emit("Progress", {"done": number}) for number in range(50)))
    return {"size": size}


async def wait(run: tailrace.Run) -> None:
    """Hold a run open until it is cancelled."""
    await run.emit("Waiting")
    await asyncio.Event().wait()


def app_of(settings: Settings) -> tailrace.App:
    app = tailrace.App(settings)
    app.agent("work")(work)
    app.agent("wait")(wait)
    return app


@pytest.fixture
async def partitioned(database: Database, settings: Callable[..., Settings]) -> Database:
    """A schema that had a finished run and a queued one when it was partitioned."""
    app = app_of(settings())
    async with app.lifespan():
        services = app.services()
        run, _ = await services.orchestrator.start("work", None, run_id="before")
        await until_ended(services, run.id)
    await queued(Runs(database), agent="work", run_id="queued-before")
    await execute(database, SCRIPT.read_text("utf-8"))
    return database


async def test_the_shipped_script_partitions_and_keeps_every_key_check_index_and_trigger(database: Database) -> None:
    """What guards the invariants on the whole tables guards them on the partitioned ones."""

    async def guards() -> list[tuple[str, ...]]:
        rows = await fetch(
            database,
            """
            select 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
            from pg_constraint
            where conrelid = any($1::text[]::regclass[]) and contype in ('p', 'f', 'u', 'c')
            union all
            select 'index', indrelid::regclass::text, indexrelid::regclass::text, pg_get_expr(indpred, indrelid)
            from pg_index
            where indrelid = any($1::text[]::regclass[])
            union all
            select 'trigger', tgrelid::regclass::text, tgname, tgtype::text
            from pg_trigger
            where tgrelid = any($1::text[]::regclass[]) and not tgisinternal
            """,
            [f'"{database.schema}".{table}' for table in BIG_TABLES],
        )
        return sorted(tuple(str(cell) for cell in row) for row in rows)

    before = await guards()
    await execute(database, SCRIPT.read_text("utf-8"))
    assert await guards() == before
    for table in BIG_TABLES:
        found = await value(
            database, "select count(*) from pg_inherits where inhparent = $1::text::regclass",
            f'"{database.schema}".{table}',
        )  # fmt: skip
        assert found == PARTITIONS
    await execute(database, SCRIPT.read_text("utf-8"))  # A second time it finds nothing to do.


async def test_runs_are_written_published_and_followed_on_partitioned_tables(
    partitioned: Database, settings: Callable[..., Settings]
) -> None:
    """Every run of forty arrives whole, in order and once, and every invariant holds; so does what was there before."""
    app = app_of(settings())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with app.lifespan(), serving(app.asgi(), listening), tailrace.Client(url) as client:
            started = await asyncio.gather(*(client.start("work") for _ in range(RUNS)))
            ids = [run.run_id for run in started] + ["before", "queued-before"]

            async def nothing_waits() -> bool | None:
                return True if await app.services().outbox.backlog() == (0, None) else None

            async def seqs(run_id: str, from_seq: int = 0) -> list[int]:
                return [event.seq async for event in client.stream(run_id, from_seq=from_seq)]

            for run_id, followed in zip(ids, await asyncio.gather(*map(seqs, ids)), strict=True):
                log = await verified_log(partitioned, run_id)
                assert followed == [event.seq for event in log]
                assert log[-1].type == "RunFinished"
                assert await seqs(run_id, from_seq=log[-3].seq) == followed[-2:]
            held = await client.start("wait")
            await client.cancel(held.run_id)
            await seqs(held.run_id)
            assert (await verified_log(partitioned, held.run_id))[-1].type == "RunCancelled"
            # A stream ends a moment before its last event is marked as published.
            await until(nothing_waits)
    used = await fetch(partitioned, "select distinct tableoid from tailrace.run_events")
    assert len(used) > PARTITIONS // 2


async def test_a_lost_lease_is_taken_over_on_partitioned_tables(
    partitioned: Database, settings: Callable[..., Settings], leases: Leases
) -> None:
    """The epoch fences on partitioned tables as on whole ones, and the run is resumed by another worker."""
    (lease,) = await leases.claim(worker="dead", agents=["work"], limit=1, lease_seconds=0.01)
    app = app_of(settings())
    async with app.lifespan():
        await until_ended(app.services(), lease.run_id)
    log = await verified_log(partitioned, lease.run_id)
    assert [event.fn for event in log if event.fn == "run.resumed"] == ["run.resumed"]


async def test_the_database_itself_refuses_a_second_end_and_anything_after_it(partitioned: Database) -> None:
    """The partial unique index and the statement trigger hold across partitions."""
    last = await value(partitioned, "select last_seq from tailrace.runs where id = 'before'")
    insert = (
        "insert into tailrace.run_events (run_id, seq, ts, type, source, fn) values ('before', $1, 1, $2, 'worker', $3)"
    )
    with pytest.raises(asyncpg.UniqueViolationError):
        await execute(partitioned, insert, last + 1, "RunFailed", "Error")
    with pytest.raises(asyncpg.CheckViolationError):
        await execute(partitioned, insert, last + 1, "DebugTrace", "late")


async def test_a_page_of_a_run_reads_its_own_partition_alone(partitioned: Database) -> None:
    """Partitions are worth something only when a statement leaves the others alone; also in the generic plan."""
    async with partitioned.connection() as connection:
        await connection.execute("set plan_cache_mode = force_generic_plan")
        statement = await connection.prepare(query("events_page", partitioned.schema))
        arguments = ("before", 0, 100, 50, 2**20)[: len(statement.get_parameters())]
        explained = await statement.explain(*arguments, analyze=True)
        await connection.execute("reset plan_cache_mode")
    text = json.dumps(explained)
    partitions = {f"run_events_{number}" for number in range(PARTITIONS)}
    assert len({name for name in partitions if f'"{name}"' in text}) == 1
