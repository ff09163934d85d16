"""Behind PgBouncer in transaction mode prepared statements, session settings and LISTEN fail, and Tailrace works."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, unquote, urlsplit

import pytest

from tailrace.errors import DatabaseUnavailable
from tailrace.model.event import TERMINAL_TYPES
from tailrace.settings import Settings
from tailrace.store import doorbell
from tailrace.store.database import Database
from tailrace.store.migrate import migrations, schema_status, upgrade
from tailrace.telemetry import DutyFailed, WakeupsDead
from tailrace.worker.run import Run
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS, opened, tried_again
from tests.read_support import stream_in_process
from tests.servers import Server, free_port, pgbouncer, unprivileged
from tests.write_support import AGENT, running

pytestmark = pytest.mark.skipif(
    pgbouncer() is None, reason="this machine has no PgBouncer (apt-get install pgbouncer); .ci/run installs it"
)


@pytest.fixture(params=["refuses", "forgets"])
def pooler(request: pytest.FixtureRequest, tailrace_database: str) -> Iterator[str]:
    """URL of the test database through a PgBouncer, which refuses or forgets settings of the session."""
    with pooled(tailrace_database, forgetting=request.param == "forgets") as url:
        yield url


@contextmanager
def pooled(database_url: str, *, forgetting: bool) -> Iterator[str]:
    """Yield the database's URL through a PgBouncer."""
    parts = urlsplit(database_url)
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        port = free_port()
        host = _host_of(database_url)
        ignored = "statement_timeout,lock_timeout,idle_in_transaction_session_timeout,jit"
        (folder / "users.txt").write_text(f'"{unquote(parts.username or "")}" "{unquote(parts.password or "")}"\n')
        (folder / "pgbouncer.ini").write_text(
            "[databases]\n"
            f"{parts.path[1:]} = host={host} port={parts.port or 5432}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = plain\nauth_file = {folder}/users.txt\n"
            "pool_mode = transaction\ndefault_pool_size = 4\n"
            + (f"ignore_startup_parameters = {ignored}\n" if forgetting else "")
        )
        user = unprivileged()
        if user is not None:
            for file in folder.iterdir():
                shutil.chown(file, user)
        binary = pgbouncer()
        assert binary is not None
        with Server([binary, folder / "pgbouncer.ini"], port, user=_owner_of(host) or user):
            login = f"{parts.username}:{quote(unquote(parts.password or ''), safe='')}"
            yield f"postgresql://{login}@127.0.0.1:{port}{parts.path}"


def _host_of(url: str) -> str:
    """The folder of the embedded server's socket, or the host."""
    parts = urlsplit(url)
    for pair in parts.query.split("&"):
        if pair.startswith("host="):
            return unquote(pair.removeprefix("host="))
    return parts.hostname or "127.0.0.1"


def _owner_of(host: str) -> str | None:
    """Whoever may enter the folder of the embedded server's socket, when root runs the tests."""
    if os.geteuid() != 0 or not host.startswith("/"):
        return None
    owner = Path(host).stat().st_uid
    return None if owner == 0 else Path(host).owner()


@pytest.fixture
async def behind(pooler: str, database: Database) -> AsyncIterator[Database]:
    """A short bound, and a pool behind it."""
    async with opened(Database(pooler, schema=database.schema, tx_timeout_ms=1000)) as made:
        yield made


async def test_a_whole_run_works_and_its_stream_ends_in_another_process(
    pooler: str, settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No wake-up arrives, which is told once; polling takes its place, and no duty fails."""
    monkeypatch.setattr(doorbell, "TEST_SECONDS", 0.3)
    monkeypatch.setattr(doorbell, "PROBE_SECONDS", 0.3)
    go_on = asyncio.Event()

    async def agent(run: Run) -> str:
        async with run.node("Work"):
            for number in range(20):
                await run.emit("Progress", {"number": number})
            await go_on.wait()
        return "done"

    there = settings(database_url=pooler)
    async with running(there, agent, ["worker", "outbox"]) as writing, running(there, {}, ["api"]) as reading:
        run, _ = await writing.services.orchestrator.start(AGENT, None)
        events = []
        await reading.told.until(WakeupsDead)
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for event in stream_in_process(reading.services, run.id):
                events.append(event)
                if len(events) == 22:
                    go_on.set()
        await writing.told.until(WakeupsDead)
        assert [event["seq"] for event in events] == list(range(1, 25))
        assert events[-1]["type"] in TERMINAL_TYPES
        for process in (writing, reading):
            await process.services.bus.check()
            assert len(process.told.of(WakeupsDead)) == 1
            assert process.told.of(DutyFailed) == []
            assert process.services.database.pooled


async def test_a_statement_and_a_transaction_stay_bounded(behind: Database) -> None:
    """What the session can no longer do the driver does for a statement, and each transaction for itself."""
    assert behind.pooled
    with pytest.raises(DatabaseUnavailable):
        async with behind.connection() as connection:
            await connection.execute("select pg_sleep(30)")
    # With a bound that this transaction cannot reach itself.
    async with opened(Database(behind.url, schema=behind.schema, tx_timeout_ms=60_000)) as patient:
        async with patient.transaction() as connection:
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                assert await connection.fetchval(f"show {name}") == "1min"
        async with patient.connection() as connection:
            assert await connection.fetchval("show idle_in_transaction_session_timeout") == "0"


async def test_upgrades_at_the_same_moment_apply_each_migration_once(pooler: str, database: Database) -> None:
    """The lock is the transaction's: one of the session would stay behind in the pooler and block the next upgrade."""
    both = [Database(pooler, schema=f"{database.schema}_pooled", tx_timeout_ms=PATIENCE_MS) for _ in range(2)]
    async with opened(both[0]), opened(both[1]):
        applied = await asyncio.gather(*(upgrade(each) for each in both), upgrade(both[0]))
        assert sorted(name for names in applied for name in names) == [each.name for each in migrations()]
        assert (await schema_status(both[0])).state == "current"
        assert await upgrade(both[1]) == []
    async with database.connection() as connection:
        await connection.execute(f'drop schema if exists "{database.schema}_pooled" cascade')


async def test_a_pooler_that_was_not_recognised_is_found_by_its_first_error(pooler: str, database: Database) -> None:
    """A prepared statement that is not there means another session: nothing is prepared from then on."""
    unaware = Database(pooler, schema=database.schema, tx_timeout_ms=PATIENCE_MS)
    await tried_again(unaware.open)
    try:
        unaware.pooled = False
        assert unaware._pool is not None
        unaware._pool.set_connect_args(pooler, server_settings={}, timeout=5)

        async def ask(number: int) -> None:
            for _ in range(20):
                async with unaware.connection() as connection:
                    await connection.fetchval(f"select {number % 5} + $1::int, pg_sleep(0.001)", number)

        failed = 0
        for _ in range(50):
            results = await asyncio.gather(*(ask(number) for number in range(8)), return_exceptions=True)
            failed += sum(isinstance(result, DatabaseUnavailable) for result in results)
            assert all(result is None or isinstance(result, DatabaseUnavailable) for result in results), results
            if unaware.pooled and not any(results):
                break
        assert unaware.pooled
        assert failed
        assert not any(results)
    finally:
        await unaware.close()
