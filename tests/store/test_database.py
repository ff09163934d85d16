"""Errors of the driver: what passes by itself, what an operator mends, and what is a mistake of ours."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any, cast

import asyncpg
import httpx2
import pytest

from tailrace.errors import DatabaseUnavailable
from tailrace.settings import Settings
from tailrace.store.database import Connection, Database
from tailrace.store.runs import Runs
from tailrace.store.trouble import passing
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS, opened
from tests.read_support import reading
from tests.write_support import fetch

MISUSES: list[tuple[str, tuple[object, ...]]] = [
    ("run_of_key", ()),
    ("run_of_key", (1, 2, 3, 4, 5)),
    ("run_show", ("r", 7)),
    ("steps_kept", (object(),)),
]


@pytest.mark.parametrize(("name", "args"), MISUSES)
async def test_a_statement_that_is_called_wrongly_is_a_mistake_and_not_an_outage(
    database: Database, name: str, args: tuple[object, ...]
) -> None:
    """Too few arguments, too many, of the wrong type: what the driver says is left as it is."""
    with pytest.raises((asyncpg.InterfaceError, asyncpg.DataError)):
        await database.rows(name, *args)
    assert await database.rows("agents_known") == []


async def begun_by_hand(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("begin")
        async with connection.transaction():
            pass


async def started_twice(database: Database) -> None:
    async with database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await transaction.start()


@pytest.mark.parametrize("wrong", [begun_by_hand, started_twice])
async def test_a_transaction_that_is_entered_wrongly_is_a_mistake_and_not_an_outage(
    database: Database, wrong: Callable[[Database], Awaitable[None]]
) -> None:
    """The driver refuses it, and nobody is told to try again."""
    with pytest.raises(asyncpg.InterfaceError, match=r"manually started|cannot start"):
        await wrong(database)


async def end_session(database: Database, connection: Connection) -> None:
    pid = await connection.fetchval("select pg_backend_pid()")
    await fetch(database, f"select pg_terminate_backend({pid}, 5000)")


async def lost_between_statements(database: Database) -> None:
    async with database.connection() as connection:
        await end_session(database, connection)
        await connection.fetchval("select 1")


async def lost_in_a_transaction(database: Database) -> None:
    async with database.transaction() as connection:
        await end_session(database, connection)
        await connection.fetchval("select 1")


async def lost_before_the_commit(database: Database) -> None:
    async with database.transaction() as connection:
        await end_session(database, connection)


@pytest.mark.parametrize("lost", [lost_between_statements, lost_in_a_transaction, lost_before_the_commit])
async def test_a_connection_that_is_lost_between_two_statements_passes(
    database: Database, lost: Callable[[Database], Awaitable[None]]
) -> None:
    """Whether the next statement finds it out, inside a transaction or outside, or the end of the transaction does."""
    with pytest.raises(DatabaseUnavailable):
        await lost(database)
    assert await fetch(database, "select 1")


async def test_a_pool_that_is_closed_passes(database: Database) -> None:
    """The process stops while somebody still asks."""
    other = Database(database.url, schema=database.schema, tx_timeout_ms=PATIENCE_MS)
    async with opened(other):
        pool = other._pool
        assert pool is not None
        await pool.close()
        with pytest.raises(DatabaseUnavailable, match="clos"):
            await other.rows("agents_known")
    with pytest.raises(DatabaseUnavailable, match="start Tailrace first"):
        await other.rows("agents_known")


async def test_a_connection_that_was_closed_by_us_passes(database: Database) -> None:
    """As a timeout and a shutdown close it."""
    connection = await database.connect()
    connection.terminate()
    with pytest.raises(DatabaseUnavailable), passing("use", "there"):
        await connection.fetchval("select 1")


@pytest.mark.parametrize("wrong", ["sslmode=perhaps", "target_session_attrs=any-thing"])
async def test_a_url_that_the_driver_cannot_use_names_the_setting(wrong: str) -> None:
    """No traceback for a slip of the pen."""
    database = Database(f"postgresql://localhost/x?{wrong}", schema="s", tx_timeout_ms=500)
    with pytest.raises(DatabaseUnavailable, match="Check TAILRACE_DATABASE_URL"):
        await database.open()


async def test_a_mistake_in_a_statement_is_answered_500_and_logged_with_its_traceback(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not 503, which would ask the client to come again for ever."""

    async def get(self: Runs, run_id: str, **_: object) -> object:
        return await self._database.rows("run_show", run_id)

    monkeypatch.setattr(Runs, "get", get)
    async with reading(settings()) as server, httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as http:
        answer = await http.get("/api/agents/runs/r")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")


async def test_a_connection_that_cannot_be_given_back_is_nobodys_bug(database: Database) -> None:
    """Whoever was cancelled meanwhile has gone, and the driver's timeout is no error for the log."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    given_up = asyncio.Event()

    async def release() -> None:
        await given_up.wait()
        raise TimeoutError

    class Pool:
        async def release(self, _: object) -> None:
            await asyncio.shield(release())  # as the driver's does

    giving = asyncio.create_task(database._give_back(cast(Any, Pool()), cast(Any, None)))
    for _ in range(3):
        await asyncio.sleep(0)
    giving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await giving
    given_up.set()
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert told == []
