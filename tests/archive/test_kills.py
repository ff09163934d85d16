"""Killed at any point, archiving loses nothing and continues.

The commands are processes of their own.  They are held where they are to die by a lock in Postgres that their next
statement needs, and killed once they wait for it, or once a file appears: states that are observed, not times.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from tailrace.archive.archiver import TRIM_ROWS
from tailrace.archive.vault import MARKER
from tailrace.store.database import Database
from tailrace.store.queries import in_schema
from tests.archive_support import (
    all_rows,
    archive_all,
    archiver,
    assert_accounted,
    assert_nothing_lost,
    finished,
    names_in,
    objects_in,
    whole_rows,
)
from tests.cli.conftest import environment  # noqa: F401 - a fixture
from tests.write_support import execute, fetch, until, until_waiting_for_a_lock, value

Start = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
async def start(environment: dict[str, str], folder: Path, tmp_path: Path) -> AsyncIterator[Start]:  # noqa: F811 - the fixture
    """Start a command; what is still there at the end is killed."""
    started: list[asyncio.subprocess.Process] = []

    async def begin(*args: str) -> asyncio.subprocess.Process:
        # Bounds beyond what a test takes: a lock that is held shall hold the command, not end it.
        more = {"TAILRACE_ARCHIVE_URL": str(folder), "TAILRACE_TX_TIMEOUT_MS": "60000"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tailrace", *args, env=environment | more, cwd=tmp_path
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def holding(database: Database, sql: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Hold the locks that a statement takes, in a session that no bound of ours ends."""
    connection = await asyncpg.connect(database.url)
    try:
        await connection.execute("begin")
        await connection.execute(in_schema(sql, database.schema))
        yield connection
    finally:
        await connection.close()


async def kill(process: asyncio.subprocess.Process, database: Database, *, answer_lost: bool = False) -> None:
    """kill -9.  Its sessions end too, unless only the answer is lost: then its statement is still executed."""
    # This test's own session was there before; a connection of `holding` has no such name.
    ours = await value(database, "select backend_start from pg_stat_activity where pid = pg_backend_pid()")
    process.kill()
    assert await process.wait() == -9

    async def ended() -> bool | None:
        # One that comes to wait only now, with a statement that was on its way, is ended by the next look.
        left = await fetch(
            database,
            "select case when wait_event_type = 'Lock' then pg_terminate_backend(pid) end from pg_stat_activity "
            "where application_name = 'tailrace' and datname = current_database() and backend_start > $1",
            ours,
        )
        return None if left else True

    if not answer_lost:
        await until(ended)


async def until_nobody_waits(database: Database) -> None:
    async def idle() -> bool | None:
        waiting = await value(
            database,
            "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
            "and (wait_event_type = 'Lock' or state = 'active') and backend_type = 'client backend'",
        )
        return True if not waiting else None

    await until(idle)


async def end_turn(database: Database) -> None:
    """Let the turn of the dead be over, as half a minute later."""
    await execute(database, "update tailrace.archive_turn set until = now() - interval '1 second'")


async def runs_of_all_sizes(database: Database) -> None:
    await finished(database, "large", events=2 * TRIM_ROWS)
    for number in range(5):
        await finished(database, f"small-{number}", events=number)


@pytest.mark.parametrize("answer_lost", [False, True], ids=["session-cut", "answer-lost"])
@pytest.mark.parametrize(
    ("stage", "lock"),
    [
        ("before the upload", "lock table tailrace.archive_objects in share mode"),
        ("after it was read back", "lock table tailrace.run_archive in share mode"),
        ("before any row is deleted", "lock table tailrace.run_events in share mode"),
        ("amid deleting", "select from tailrace.run_events where run_id = 'large' and seq = 5100 for update"),
    ],
)
async def test_killed_anywhere_it_loses_nothing_and_continues(
    database: Database, folder: Path, start: Start, stage: str, lock: str, answer_lost: bool
) -> None:
    """Whatever the killed turn has left: the next finishes it; every row is somewhere, once; no file is left over."""
    await runs_of_all_sizes(database)
    before = await whole_rows(database)
    total = sum(map(len, before.values()))
    async with holding(database, lock):
        process = await start("archive", "run", "--older-than", "0")
        await until_waiting_for_a_lock(database)
        files = [name for name in names_in(folder) if name != MARKER]
        pointers = await value(database, "select count(*) from tailrace.run_archive")
        rows = await value(database, "select count(*) from tailrace.run_events")
        found = (len(files), pointers, rows)
        assert (
            found
            == {
                "before the upload": (0, 0, total),
                "after it was read back": (1, 0, total),
                "before any row is deleted": (1, 6, total),
                "amid deleting": (1, 6, total - TRIM_ROWS),
            }[stage]
        )
        await kill(process, database, answer_lost=answer_lost)
    await until_nobody_waits(database)
    await end_turn(database)
    again = await start("archive", "run", "--older-than", "0")
    assert await again.wait() == 0
    await assert_nothing_lost(database, folder, before)


async def test_killed_between_the_upload_and_its_reading_back(database: Database, folder: Path, start: Start) -> None:
    """The object is there and nothing points to it: it is removed, with what an unfinished upload leaves beside it."""
    await runs_of_all_sizes(database)
    before = await whole_rows(database)
    rows = await all_rows(database)

    async def uploaded() -> Path | None:
        return next(iter(objects_in(folder)), None)

    async with holding(database, "lock table tailrace.run_archive in share mode"):
        process = await start("archive", "run", "--older-than", "0")
        left = await until(uploaded)
        await kill(process, database)
    (folder / f"{left.name}#1").write_bytes(b"the first parts of an upload")
    assert await all_rows(database) == rows
    await end_turn(database)
    again = await start("archive", "run", "--older-than", "0")
    assert await again.wait() == 0
    assert not left.exists()
    await assert_nothing_lost(database, folder, before)


async def test_killed_before_it_says_that_all_rows_are_deleted(database: Database, folder: Path, start: Start) -> None:
    """The next turn finds nothing left to delete, and says so."""
    await runs_of_all_sizes(database)
    before = await whole_rows(database)
    async with holding(database, "lock table tailrace.run_events in share mode") as first:
        process = await start("archive", "run", "--older-than", "0")
        await until_waiting_for_a_lock(database)
        async with holding(database, "select from tailrace.run_archive for update"):
            await first.execute("commit")

            async def deleted() -> bool | None:
                return True if await value(database, "select count(*) from tailrace.run_events") == 6 else None

            await until(deleted)
            await until_waiting_for_a_lock(database)
            await kill(process, database)
    await end_turn(database)
    again = await start("archive", "run", "--older-than", "0")
    assert await again.wait() == 0
    await assert_nothing_lost(database, folder, before)


async def test_a_restore_that_is_killed_loses_nothing_and_continues(
    database: Database, folder: Path, start: Start
) -> None:
    """Rows that are back stay, the others come with the next try; the archive copy is there all the while."""
    await runs_of_all_sizes(database)
    before = await all_rows(database)
    await archive_all(database, folder)
    # A row of the second batch from the end that somebody else is just putting there: the insert waits for it.
    conflicting = """
        insert into tailrace.run_events (run_id, seq, ts, type, source, fn)
        values ('large', 4000, 1, 'DebugTrace', 'api', 'f')
    """
    async with holding(database, conflicting):
        process = await start("archive", "restore", "large")
        await until_waiting_for_a_lock(database)
        await kill(process, database)
    back = await fetch(database, "select seq from tailrace.run_events where run_id = 'large' order by seq")
    seqs = [row["seq"] for row in back]
    assert seqs == list(range(seqs[0], len(before["large"]) + 1))
    assert 4000 < seqs[0] < len(before["large"])
    await end_turn(database)
    again = await start("archive", "restore", "large")
    assert await again.wait() == 0
    assert (await all_rows(database))["large"] == before["large"]
    await assert_accounted(database, folder)


@pytest.mark.parametrize(
    ("stage", "lock"),
    [
        ("the new object is stored", "select from tailrace.run_archive where run_id = 'small-1' for update"),
        ("rows are being deleted", "select from tailrace.run_events where run_id = 'small-2' for update"),
        ("the run's row is there still", "select from tailrace.runs where id = 'small-2' for update"),
    ],
)
async def test_a_purge_that_is_killed_can_be_repeated(
    database: Database, folder: Path, start: Start, stage: str, lock: str
) -> None:
    """Killed anywhere, the same command removes the rest; what stays is whole."""
    await runs_of_all_sizes(database)
    before = await whole_rows(database)
    await archive_all(database, folder)
    async with holding(database, lock):
        process = await start("purge", "small-2", "--yes")
        await until_waiting_for_a_lock(database)
        await kill(process, database)
    await until_nobody_waits(database)
    await end_turn(database)
    again = await start("purge", "small-2", "--yes")
    assert await again.wait() == 0
    del before["small-2"]
    await assert_nothing_lost(database, folder, before)
    assert all(b"small-2" not in path.read_bytes() for path in objects_in(folder))
    assert (await archiver(database, folder).archive_once(0)).runs == 0
