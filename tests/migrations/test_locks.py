"""An upgrade beside a service in use: it waits for its tables without holding others up, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tailrace.errors import DatabaseUnavailable
from tailrace.settings import Settings
from tailrace.store import migrate
from tailrace.store.database import Connection, Database
from tailrace.store.migrate import Migration, migrations, schema_status, upgrade
from tailrace.worker.run import Run
from tests.write_support import running, until_waiting_for_a_lock, value, verified_log

VERSION = migrations()[-1].version + 1
NAME = "extra.sql"
COLUMN = "alter table tailrace.run_events add column extra text; alter table tailrace.runs add column extra text"
COLUMNS = """
    select count(*) from information_schema.columns
    where table_schema = $1 and column_name = 'extra'
"""


@pytest.fixture
def one_more(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on there is a migration more, which needs the tables of the append for itself."""
    known = migrations()

    def add() -> None:
        monkeypatch.setattr(migrate, "migrations", lambda: [*known, Migration(VERSION, NAME, COLUMN)])

    return add


async def hold(database: Database, connection: Connection) -> int:
    """Read a table in a transaction that stays open, as a dump does, and return its session."""
    await connection.execute("set idle_in_transaction_session_timeout = 0")
    await connection.execute("begin")
    await connection.execute(f'lock table "{database.schema}".runs in access share mode')
    return int(await connection.fetchval("select pg_backend_pid()"))


async def test_runs_go_on_while_an_upgrade_cannot_have_its_tables(
    database: Database, settings: Callable[..., Settings], one_more: Callable[[], None]
) -> None:
    """A dump holds a table: whole runs pass beside the upgrade that waits, which is done once the dump is."""

    async def agent(run: object) -> str:
        return "done"

    dump = await database.connect()
    async with running(settings(), agent) as app:
        one_more()
        await hold(database, dump)
        upgrading = asyncio.create_task(upgrade(database))
        await until_waiting_for_a_lock(database)
        ended = [await app.ended(await app.start()) for _ in range(3)]
        assert not upgrading.done()
        assert await value(database, COLUMNS, database.schema) == 0
        await dump.execute("rollback")
        assert await upgrading == [NAME]
        ended.append(await app.ended(await app.start()))
    await dump.close()
    assert await value(database, COLUMNS, database.schema) == 2
    for run in ended:
        assert run.output == '"done"'
        await verified_log(database, run.id)


async def test_an_upgrade_beside_many_appends_gets_its_turn(
    database: Database, settings: Callable[..., Settings], one_more: Callable[[], None]
) -> None:
    """Runs that never pause between their events: the upgrade is applied among them, and no event is lost."""
    enough = asyncio.Event()

    async def agent(run: Run) -> None:
        while not enough.is_set():
            await run.trace("on")

    async with running(settings(), agent) as app:
        runs = [await app.start() for _ in range(8)]
        one_more()
        assert await upgrade(database) == [NAME]
        enough.set()
        for run_id in runs:
            assert (await app.ended(run_id)).error_class is None
            await verified_log(database, run_id)


async def test_an_upgrade_that_cannot_have_its_tables_gives_up_and_names_who_holds_them(
    database: Database, one_more: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which session and how to end it, has changed nothing, and can be run again."""
    one_more()
    monkeypatch.setattr(migrate, "TABLE_TRIES_MAX", 2)
    monkeypatch.setattr(migrate, "TABLE_WAIT_MS", 50)
    monkeypatch.setattr(migrate, "TABLE_PAUSE_SECONDS", 0.01)
    dump = await database.connect()
    session = await hold(database, dump)
    with pytest.raises(DatabaseUnavailable, match=rf"could not lock .* 2 attempts.*pg_terminate_backend\({session}\)"):
        await upgrade(database)
    assert await value(database, COLUMNS, database.schema) == 0
    assert (await schema_status(database)).found == VERSION - 1
    await dump.close()
    assert await upgrade(database) == [NAME]
