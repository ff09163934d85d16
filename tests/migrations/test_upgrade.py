"""Schema versions: forward only, once each, and refused when they do not fit the code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tailrace.errors import IdempotencyConflict, RunNotFound, SchemaMismatch
from tailrace.store import migrate
from tailrace.store.database import Database
from tailrace.store.events import Events
from tailrace.store.leases import Leases
from tailrace.store.migrate import Migration, SchemaStatus, migrations, require_current, schema_status, upgrade
from tailrace.store.outbox import Outbox
from tailrace.store.runs import RunRequest, Runs
from tailrace.telemetry import Telemetry
from tailrace.write.publisher import Publisher
from tests.patience import PATIENCE_MS, opened
from tests.write_support import NOW_MS, RecordingBus, claim, execute, fetch, queued, value, verified_log

NEEDED = migrations()[-1].version


@pytest.fixture
async def empty(tailrace_database: str) -> AsyncIterator[Database]:
    """A schema that does not exist yet."""
    async with opened(Database(tailrace_database, schema="not_yet_there", tx_timeout_ms=PATIENCE_MS)) as database:
        try:
            yield database
        finally:
            async with database.connection() as connection:
                await connection.execute('drop schema if exists "not_yet_there" cascade')


def test_migrations_are_numbered_from_1_without_a_gap() -> None:
    """The number in the file's name is the order."""
    assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))
    assert [migration.name[:4] for migration in migrations()] == [f"{m.version:04d}" for m in migrations()]


async def test_everything_is_made_in_the_schema_that_was_asked_for(empty: Database) -> None:
    """Nothing lands in whichever schema happens to be first on the path."""
    catalogue = """
        select namespace.nspname || '.' || made.name as name
        from (
            select relnamespace as namespace, relname as name from pg_class
            union all select pronamespace, proname from pg_proc
            union all select typnamespace, typname from pg_type
        ) as made
        join pg_namespace as namespace on namespace.oid = made.namespace
        where namespace.nspname <> 'not_yet_there' and namespace.nspname !~ '^pg_'
    """
    before = {row["name"] for row in await fetch(empty, catalogue)}
    await upgrade(empty)
    assert {row["name"] for row in await fetch(empty, catalogue)} == before
    body = await value(
        empty, "select string_agg(prosrc, ' ') from pg_proc where pronamespace = 'not_yet_there'::regnamespace"
    )
    assert "tailrace." not in body


async def test_a_fresh_database_is_upgraded_once(empty: Database) -> None:
    """The second upgrade finds nothing to do and changes nothing."""
    assert await schema_status(empty) == SchemaStatus(found=0, needed=NEEDED)
    with pytest.raises(SchemaMismatch, match="tailrace db upgrade"):
        await require_current(empty)
    assert await upgrade(empty) == [migration.name for migration in migrations()]
    await require_current(empty)
    applied = await fetch(empty, "select * from tailrace.schema_migrations order by version")
    assert await upgrade(empty) == []
    assert await fetch(empty, "select * from tailrace.schema_migrations order by version") == applied
    assert (await schema_status(empty)).state == "current"


async def test_upgrades_at_the_same_moment_apply_each_migration_once(empty: Database) -> None:
    """Five processes start together: one does the work, the others wait for it and find it done."""
    applied = await asyncio.gather(*(upgrade(empty) for _ in range(5)))
    assert sorted(name for names in applied for name in names) == [migration.name for migration in migrations()]
    await require_current(empty)


async def test_an_upgrade_keeps_what_is_there(database: Database, runs: Runs) -> None:
    """Upgrading a current database is safe at any time."""
    run_id = await queued(runs)
    assert await upgrade(database) == []
    assert len(await verified_log(database, run_id)) == 1


async def test_runs_from_before_tenants_belong_to_the_default_one(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are listed as before, and their idempotency keys still hold, for that tenant alone."""
    known = migrations()
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "migrations", lambda: known[:1])
        await upgrade(empty)
    await execute(
        empty,
        "insert into tailrace.runs (id, agent, idempotency_key, request_hash) values ('old', 'a', 'k', 'h')",
    )
    await execute(empty, "insert into tailrace.run_outbox (run_id) values ('old')")
    await upgrade(empty)
    runs = Runs(empty)
    for tenant, expected in (("default", ["old"]), ("other", []), (None, ["old"])):
        found, _ = await runs.list(state=None, agent=None, limit=10, cursor=None, tenant=tenant)
        assert [run.id for run in found] == expected
    with pytest.raises(IdempotencyConflict):
        await runs.create(RunRequest("new", "a", None, NOW_MS, "k", b"other"))
    _, is_new = await runs.create(RunRequest("new", "a", None, NOW_MS, "k", b"other", tenant="other"))
    assert is_new


async def test_a_database_that_is_ahead_is_left_alone(database: Database) -> None:
    """Neither served nor upgraded: an older Tailrace does not know what a newer one has made."""
    await execute(database, "insert into tailrace.schema_migrations (version, name) values (9999, 'later')")
    assert await schema_status(database) == SchemaStatus(found=9999, needed=NEEDED)
    assert (await schema_status(database)).state == "ahead"
    for refuse in (require_current, upgrade):
        with pytest.raises(SchemaMismatch, match="9999") as refused:
            await refuse(database)
        assert "upgrade the tailrace package" in str(refused.value)


async def test_a_migration_that_fails_leaves_nothing_of_itself(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one transaction; those before it stay, and a mended one can be applied later."""
    good = Migration(NEEDED + 1, "good.sql", "create table tailrace.good (a integer)")
    bad = Migration(NEEDED + 2, "bad.sql", "create table tailrace.bad (a integer); select 1 / 0")
    known = migrations()
    monkeypatch.setattr(migrate, "migrations", lambda: [*known, good, bad])
    with pytest.raises(asyncpg.DivisionByZeroError):
        await upgrade(database)
    assert (await schema_status(database)).found == good.version
    names = await fetch(database, "select tablename from pg_tables where schemaname = $1", database.schema)
    assert "good" in {row["tablename"] for row in names}
    assert "bad" not in {row["tablename"] for row in names}
    mended = Migration(bad.version, "bad.sql", "create table tailrace.bad (a integer)")
    monkeypatch.setattr(migrate, "migrations", lambda: [*known, good, mended])
    assert await upgrade(database) == ["bad.sql"]


async def test_two_schemas_in_one_database_do_not_interfere(database: Database, empty: Database, runs: Runs) -> None:
    """The same run id in both: each has its own queue, log and outbox."""
    await upgrade(empty)
    others = Runs(empty)
    await queued(runs, run_id="same")
    with pytest.raises(RunNotFound):
        await others.get("same")
    await queued(others, run_id="same", input_text='"other"')
    (lease,) = await claim(Leases(empty))
    assert lease.input == '"other"'
    assert (await runs.get("same")).state == "queued"
    assert await others.cancel("same", NOW_MS) is None
    assert await runs.cancel("same", NOW_MS) == 2
    bus = RecordingBus()
    while await Publisher(Outbox(database), bus, Telemetry(), bus_timeout_seconds=5).sweep_once():
        pass
    assert bus.received == {"same": [1, 2]}
    assert (await others.get("same")).next_seq == 1
    assert (await Events(empty).tails(["same"]))["same"].last_seq == 1
    assert await value(empty, "select count(*) from tailrace.run_events") == 1
    await verified_log(database, "same")
    await verified_log(empty, "same")
