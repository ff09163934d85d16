"""The right to be forgotten: after a purge no table and no object has anything of the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tailrace.archive.purge import Purger
from tailrace.archive.vault import Vault
from tailrace.errors import ArchiveUnavailable, RunActive, RunNotFound
from tailrace.settings import Settings
from tailrace.store.archives import Archives
from tailrace.store.database import Database
from tests.archive_support import archive_all, archiver, assert_accounted, assert_nothing_lost, finished, whole_rows
from tests.read_support import RUNS, HandWrittenRun, reading, request
from tests.write_support import execute, fetch

SECRET = "secret-of-alice"  # the id: it also stands in the data of the run's events


def purger(database: Database, folder: Path | None) -> Purger:
    return Purger(Archives(database, "purger"), Vault(str(folder)) if folder is not None else None)


async def everything_in(database: Database) -> str:
    """Return every row of every table as text."""
    tables = await fetch(database, "select tablename as name from pg_tables where schemaname = $1", database.schema)
    assert {"runs", "run_events", "run_outbox", "run_steps", "run_archive", "archive_objects"} <= {
        row["name"] for row in tables
    }
    texts = []
    for table in tables:
        if table["name"] == "archive_turn":
            continue  # Whose turn it was last, and until when: no run, and another each time.
        rows = await fetch(database, f"select row_to_json(t)::text as text from tailrace.{table['name']} as t")
        texts += [row["text"] for row in rows]
    return "\n".join(texts)


def everything_under(folder: Path) -> bytes:
    """Return every file's bytes and, of Parquet, all that its columns decode to."""
    texts = []
    for path in sorted(folder.rglob("*")):
        texts.append(path.name.encode() + path.read_bytes())
        if path.suffix == ".parquet":
            texts.append(repr(pq.read_table(path).to_pylist()).encode() + str(pq.read_metadata(path)).encode())
    return b"\n".join(texts)


@pytest.mark.parametrize("state", ["in Postgres", "archived", "restored", "alone in its object"])
async def test_a_purged_run_leaves_no_trace(
    database: Database, settings: Callable[..., Settings], tmp_path: Path, state: str
) -> None:
    """No table and no object has its id or its data, its stream is 404, and other runs are whole."""
    for run_id in (SECRET, *(() if state == "alone in its object" else ("a", "z"))):
        await finished(database, run_id, events=30)
    await execute(
        database, "insert into tailrace.run_steps (run_id, key, seq, result) values ($1, 'k', 2, '1')", SECRET
    )
    before = await whole_rows(database)
    if state != "in Postgres":
        await archive_all(database, tmp_path)
        assert SECRET.encode() in everything_under(tmp_path)
    if state == "restored":
        await archiver(database, tmp_path).restore(SECRET)
    assert SECRET in await everything_in(database)
    done = await purger(database, tmp_path).purge([SECRET])
    assert done.runs == 1
    assert SECRET not in await everything_in(database)
    assert SECRET.encode() not in everything_under(tmp_path)
    async with reading(settings(archive_url=str(tmp_path))) as server:
        for kind in ("", "/stream", "/events"):
            async with request(server.port, f"{RUNS}/{SECRET}{kind}") as answer:
                assert answer.status == 404
    del before[SECRET]
    await archive_all(database, tmp_path)
    await assert_nothing_lost(database, tmp_path, before)


async def test_a_tenant_is_purged_with_all_its_runs(database: Database, tmp_path: Path) -> None:
    """In every object, archived or not; other tenants' runs are whole."""
    for number in range(6):
        await finished(database, f"{'alice' if number % 2 else 'bob'}-{number}", events=5)
    await execute(database, "update tailrace.runs set tenant = split_part(id, '-', 1)")
    before = {run_id: rows for run_id, rows in (await whole_rows(database)).items() if run_id.startswith("bob")}
    await archive_all(database, tmp_path, object_events=20)
    await finished(database, "alice-late")
    await execute(database, "update tailrace.runs set tenant = split_part(id, '-', 1)")
    assert (await purger(database, tmp_path).purge([], "alice")).runs == 4
    assert "alice" not in await everything_in(database)
    assert b"alice" not in everything_under(tmp_path)
    await assert_nothing_lost(database, tmp_path, before)
    assert (await purger(database, tmp_path).purge([], "alice")).runs == 0


async def test_what_cannot_be_purged_whole_is_not_begun(database: Database, tmp_path: Path) -> None:
    """A run in progress, an unpublished one, one that does not exist, an archive nobody named: nothing is removed."""
    await finished(database, "done")
    await HandWrittenRun.start(database, "going")
    await finished(database, "unpublished", publish=False)
    everything = await everything_in(database)
    for others, error, said in (
        ("going", RunActive, "cancel it first"),
        ("unpublished", RunActive, "not published"),
        ("nobody", RunNotFound, "nobody"),
    ):
        with pytest.raises(error, match=said):
            await purger(database, None).purge(["done", others])
    with pytest.raises(RunActive):
        await purger(database, None).purge([], "default")
    assert await everything_in(database) == everything
    await archive_all(database, tmp_path)
    with pytest.raises(ArchiveUnavailable, match="TAILRACE_ARCHIVE_URL"):
        await purger(database, None).purge(["done"])
    await assert_accounted(database, tmp_path)
    assert (await archiver(database, tmp_path).restore("done")) == 5


async def test_a_stream_that_reads_while_another_run_is_purged_goes_on(
    database: Database, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """The object is replaced under the reader, which is told where the run lies now."""
    for run_id in ("a", "r"):
        await finished(database, run_id, events=4000, size=500)
    await archive_all(database, tmp_path)
    async with reading(settings(archive_url=str(tmp_path))) as server, server.stream() as answer:
        assert await answer.upto(10) == list(range(1, 11))
        await purger(database, tmp_path).purge(["a"])
        assert (await answer.seqs())[-1] == 4003
