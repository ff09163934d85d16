"""`tailrace doctor`: what the runs stand on, tables, indexes, database, bus and wake-ups, by the fault itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tailrace.store.database import Database
from tailrace.upkeep.finding import Code
from tests.outage_support import served
from tests.servers import Server, free_port, nats, pgbouncer, valkey
from tests.upkeep.conftest import AGENTS, Doctor, MakeSettings, finding, well
from tests.write_support import execute, fetch, value


@pytest.mark.parametrize("name", ["run_outbox_open", "runs_leases", "run_steps_pkey"])
async def test_a_dropped_index_is_named_with_the_statement_that_makes_it(
    database: Database, doctor: Doctor, name: str
) -> None:
    """What the finding says to run, run, is the cure; the key of a table is named too."""
    if name == "run_steps_pkey":
        await execute(database, "alter table tailrace.run_steps drop constraint run_steps_pkey")
    else:
        await execute(database, f"drop index tailrace.{name}")
    missing = (await doctor()).of("index-missing")
    assert name in missing["detail"]
    if name != "run_steps_pkey":
        await execute(database, missing["action"].removeprefix("in psql: "))
        assert (await well(doctor)).findings == []


async def test_an_index_that_was_not_completed_is_named(database: Database, doctor: Doctor) -> None:
    """`create index concurrently` that is interrupted leaves one that Postgres does not use."""
    await execute(database, "update pg_index set indisvalid = false where indexrelid = 'tailrace.runs_queue'::regclass")
    assert "not valid" in (await doctor()).of("index-missing")["detail"]


async def test_an_older_and_a_newer_schema_are_found(database: Database, doctor: Doctor) -> None:
    """Behind names the command; ahead names the package; where there is no schema at all it is behind."""
    (newest,) = await fetch(database, "delete from tailrace.schema_migrations where version = 2 returning version + 0")
    assert newest is not None
    await execute(database, "delete from tailrace.schema_migrations where version > 1")
    behind = (await doctor()).of("schema-behind")
    assert "`tailrace db upgrade`" in behind["action"]
    await execute(database, "insert into tailrace.schema_migrations (version, name) values (9999, 'later')")
    assert "upgrade the tailrace package" in (await doctor()).of("schema-behind")["action"]
    absent = await finding(doctor, [Code.SCHEMA_BEHIND], TAILRACE_DB_SCHEMA="not_there")
    assert absent.codes == [Code.SCHEMA_BEHIND]


async def test_tables_that_were_altered_by_hand_are_no_traceback(database: Database, doctor: Doctor) -> None:
    """A version that says one thing and tables that say another are a finding as well."""
    await execute(database, "alter table tailrace.runs rename column lease_owner to owner")
    altered = (await doctor()).of("schema-behind")
    assert "lease_owner" in altered["detail"]
    await execute(database, "alter table tailrace.runs rename column owner to lease_owner")


async def test_a_database_that_is_away_or_takes_no_writes_is_found(
    tailrace_database: str, database: Database, doctor: Doctor
) -> None:
    """Refused, and read-only; bad settings are an error of use."""
    away = await doctor(TAILRACE_DATABASE_URL=f"postgresql://nobody:secret@127.0.0.1:{free_port()}/x")
    assert away.codes == [Code.DATABASE_UNREACHABLE]
    assert "secret" not in away.out
    name = await value(database, "select current_database()")
    try:
        await execute(database, f'alter database "{name}" set default_transaction_read_only = on')
        assert "takes no writes" in (await doctor()).of("database-unreachable")["detail"]
    finally:
        await execute(
            database,
            f'begin; set transaction read write; alter database "{name}" reset default_transaction_read_only; commit',
        )
    for usage in (("--url", "nowhere"), ("--nonsense",), ("--url", "http://x", "--api-key-file", "no")):
        assert (await doctor(*usage)).code == 2
    assert (await doctor(TAILRACE_STALL_SECONDS="never")).code == 2


@pytest.mark.parametrize("make", [valkey, nats])
async def test_a_bus_that_stops_is_found(
    settings: MakeSettings, doctor: Doctor, tmp_path: Path, make: Callable[[Path], Server]
) -> None:
    """There it carries the canary's news; killed, it is named, and the canary is published all the same."""
    scheme = "redis" if make is valkey else "nats"
    with make(tmp_path) as bus:
        url = f"{scheme}://127.0.0.1:{bus.port}"
        async with served(settings(), app=AGENTS, TAILRACE_BUS_URL=url):
            healthy = await well(doctor, text=True, TAILRACE_BUS_URL=url)
            assert healthy.code == 0, healthy.out
            assert "not made" not in healthy.out
            bus.kill()
            told = await finding(doctor, [Code.BUS_UNREACHABLE], TAILRACE_BUS_URL=url)
            assert told.codes == [Code.BUS_UNREACHABLE]
            assert str(bus.port) in told.of("bus-unreachable")["detail"]


@pytest.mark.skipif(pgbouncer() is None, reason="there is no PgBouncer; .ci/run installs it")
async def test_wake_ups_that_do_not_arrive_are_found(tailrace_database: str, doctor: Doctor) -> None:
    """Through PgBouncer in transaction mode LISTEN is accepted and hears nothing."""
    from tests.bus.test_pgbouncer import pooled  # noqa: PLC0415 - only where there is one

    with pooled(tailrace_database, forgetting=True) as url:
        told = await finding(doctor, [Code.WAKEUP_DEAD], TAILRACE_DATABASE_URL=url)
    assert told.codes == [Code.WAKEUP_DEAD]
    assert "polling" in told.of("wakeup-dead")["detail"]
