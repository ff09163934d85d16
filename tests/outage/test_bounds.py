"""The bounds on our sessions: in force on every one of them, the server's and the client's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from tailrace.errors import DatabaseUnavailable
from tailrace.settings import Settings, load_settings
from tailrace.store import database as database_module
from tailrace.store import migrate
from tailrace.store.database import Database
from tailrace.store.doorbell import Doorbell
from tailrace.store.migrate import ADVISORY_LOCK, upgrade
from tailrace.store.outbox import Outbox
from tailrace.telemetry import Telemetry
from tests.outage.cluster import Cluster
from tests.outage_support import Line
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS, opened, tried_again
from tests.write_support import execute, running, shorten_idle, until, value

MakeSettings = Callable[..., Settings]
BOUNDS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


@pytest.fixture
async def impatient(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """A pool on the test's schema whose statements may take a quarter of a second, and their answers what they need."""
    monkeypatch.setattr(database_module, "ANSWER_GRACE_SECONDS", PATIENCE_SECONDS)
    async with opened(Database(database.url, schema=database.schema, tx_timeout_ms=250)) as made:
        yield made


async def bounds_of(connection: object) -> set[str]:
    return {await connection.fetchval(f"show {name}") for name in BOUNDS}  # type: ignore[attr-defined] # either kind


async def test_the_setting_bounds_every_session(settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the pool and those that listen, of an App that has all roles."""
    monkeypatch.setenv("TAILRACE_TX_TIMEOUT_MS", "12345")
    given = load_settings(**settings().model_dump(include={"database_url", "db_schema", "log_level"}))

    async def agent(run: object) -> None: ...

    async with running(given, agent) as app:
        await app.ended(await app.start())
        database = app.services.database
        async with database.connection() as pooled:
            assert await bounds_of(pooled) == {"12345ms"}
        listening = await database.connect()
        assert await bounds_of(listening) == {"12345ms"}
        await listening.close()


async def test_whoever_listens_is_bounded_too(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doorbell has no connection but that which the test above looks at."""
    bounded = Database(database.url, schema=database.schema, tx_timeout_ms=12345)
    made: list[asyncpg.Connection[asyncpg.Record]] = []
    connect = bounded.connect

    async def seen() -> asyncpg.Connection[asyncpg.Record]:
        made.append(await connect())
        return made[-1]

    monkeypatch.setattr(bounded, "connect", seen)
    async with opened(bounded):
        doorbell = Doorbell(bounded, Telemetry())
        task = asyncio.create_task(doorbell.listen_once())

        async def listening() -> bool | None:
            return doorbell.listening or None

        await until(listening)
        assert await bounds_of(made[0]) == {"12345ms"}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_statement_that_takes_too_long_is_ended(impatient: Database) -> None:
    """By the server, which says so; nothing has happened, and the connection is good for more."""
    with pytest.raises(DatabaseUnavailable, match="statement timeout") as ended:
        await value(impatient, "select pg_sleep(60)")
    assert not ended.value.sent
    assert await value(impatient, "select 1") == 1


async def test_a_publisher_that_freezes_in_its_transaction_frees_the_run(
    database: Database,
) -> None:
    """Its session is ended by the server and its row lock with it; another publisher gets the row."""
    await execute(
        database,
        "with run as (insert into tailrace.runs (id, agent, last_seq) values ('r', 'a', 1) returning id)"
        " insert into tailrace.run_outbox (run_id) select id from run",
    )
    await execute(
        database,
        "insert into tailrace.run_events (run_id, seq, ts, type, source) values ('r', 1, 1, 'RunStarted', 'api')",
    )

    async def taken() -> bool | None:
        async with Outbox(database).transaction() as other:
            return True if await other.take(None, [], runs_max=9, events_max=9) else None

    async def publish_frozen() -> None:
        async with Outbox(publishing).transaction() as frozen:
            assert await frozen.take(None, [], runs_max=9, events_max=9)
            # The bound begins once it was seen holding the row, however long that took.
            assert await taken() is None
            await shorten_idle(frozen)
            await until(taken)

    async with opened(Database(database.url, schema=database.schema, tx_timeout_ms=PATIENCE_MS)) as publishing:
        with pytest.raises(DatabaseUnavailable):
            await publish_frozen()


async def test_a_server_that_does_not_answer_is_not_waited_for(database: Database) -> None:
    """The line is silent, so no bound of the server helps; what became of the statement is not known."""
    async with (
        Line(database.url).running() as line,
        opened(Database(line.url, schema=database.schema, tx_timeout_ms=100)) as over_the_line,
    ):
        line.silence()
        with pytest.raises(DatabaseUnavailable) as lost:
            await value(over_the_line, "select 1")
        assert lost.value.sent
        line.mend()
        assert await until(lambda: answered(over_the_line)) == 1


async def answered(database: Database) -> int | None:
    try:
        found: int = await value(database, "select 1")
    except DatabaseUnavailable:
        return None
    return found


async def test_an_upgrade_waits_for_another_and_for_longer_than_a_statement_may_take(
    database: Database, impatient: Database
) -> None:
    """The other process holds the lock for several times the bound; then the schema is found to be current."""

    async def held_up() -> list[str]:
        async with database.connection() as other:
            await other.fetchval("select pg_advisory_lock($1)", ADVISORY_LOCK)
            waiting = asyncio.create_task(upgrade(impatient))
            await other.fetchval("select pg_sleep(1)")
            was_held_up = not waiting.done()
            await other.fetchval("select pg_advisory_unlock($1)", ADVISORY_LOCK)
            applied = await waiting
        assert was_held_up
        return applied

    # Its connection may not come while the machine stands still; that it waits too shortly would be so each time.
    assert await tried_again(held_up) == []


async def test_an_upgrade_that_another_blocks_for_ever_says_who_it_is(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the session and how to end it; once it is ended, an upgrade gets through."""
    monkeypatch.setattr(migrate, "LOCK_WAIT_MS", 50)
    other = await database.connect()
    await other.fetchval("select pg_advisory_lock($1)", ADVISORY_LOCK)
    session = await other.fetchval("select pg_backend_pid()")
    with pytest.raises(DatabaseUnavailable, match=rf"another process upgrades .*pg_terminate_backend\({session}\)"):
        await upgrade(database)
    await execute(database, "select pg_terminate_backend($1, 5000)", session)
    assert await upgrade(database) == []
    other.terminate()


async def test_a_database_that_is_made_anew_is_served_once_it_is_upgraded(
    cluster: Cluster, database: Database, settings: MakeSettings
) -> None:
    """The tables vanish under a running App: that is said, with the command to run; afterwards it goes on."""

    async def agent(run: object) -> str:
        return "done"

    async with running(settings(), agent) as app:
        await app.ended(await app.start())
        await cluster.sql(f'drop schema "{database.schema}" cascade')
        with pytest.raises(DatabaseUnavailable, match="tailrace db upgrade"):
            await app.start()
        await upgrade(database)
        assert (await app.ended(await app.start())).output == '"done"'
