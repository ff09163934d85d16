"""Finished runs go to the archive and come back, as they were."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tailrace.archive import objects
from tailrace.archive.archiver import Archived
from tailrace.archive.parquet import Digest, Spool
from tailrace.archive.turn import turn
from tailrace.archive.vault import Vault
from tailrace.errors import ArchiveBusy, ArchiveMismatch, ArchiveUnavailable
from tailrace.store.archives import Archives
from tailrace.store.database import Database
from tests.archive_support import (
    all_rows,
    archive_all,
    archiver,
    assert_accounted,
    assert_nothing_lost,
    finished,
    objects_in,
    whole_rows,
)
from tests.read_support import HandWrittenRun
from tests.write_support import execute, fetch, value


async def test_what_is_archived_is_what_was_there(database: Database, tmp_path: Path) -> None:
    """Every column of every row is in the store; the terminal event and the run's row stay in Postgres."""
    for number in range(7):
        await finished(database, f"run-{number}", events=number * 3)
    before = await whole_rows(database)
    done = await archive_all(database, tmp_path, object_events=20)
    events = sum(len(rows) for rows in before.values())
    assert (done.runs, done.events, done.rows_deleted) == (7, events, events - 7)
    assert await value(database, "select count(distinct object) from tailrace.run_archive") > 1
    await assert_nothing_lost(database, tmp_path, before)
    assert await value(database, "select count(*) from tailrace.runs where archived_at is not null") == 7


async def test_an_object_can_be_read_by_anybody(database: Database, tmp_path: Path) -> None:
    """It is Parquet with the columns of the table, by run and seq, data verbatim, statistics on both."""
    await finished(database, "b", events=2)
    await finished(database, "a", events=1)
    rows = await fetch(
        database, "select run_id, seq, data::text as data, created_at from tailrace.run_events order by run_id, seq"
    )
    await archive_all(database, tmp_path)
    (path,) = objects_in(tmp_path)
    table = pq.read_table(path)
    columns = await fetch(
        database,
        "select column_name as name from information_schema.columns "
        "where table_schema = $1 and table_name = 'run_events'",
        database.schema,
    )
    assert set(table.column_names) == {row["name"] for row in columns}
    found = table.select(["run_id", "seq", "data", "created_at"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [tuple(row) for row in rows]
    statistics = pq.read_metadata(path).row_group(0).column(0).statistics
    assert (statistics.min, statistics.max) == ("a", "b")


async def test_only_what_has_ended_long_ago_and_is_published_goes(database: Database, tmp_path: Path) -> None:
    """Queued, started, young and unpublished runs keep their rows."""
    await finished(database, "old")
    await finished(database, "young")
    await execute(database, "update tailrace.runs set finished_at = finished_at - interval '31 days' where id = 'old'")
    await HandWrittenRun.start(database, "started")
    await finished(database, "unpublished", publish=False)
    await execute(
        database, "update tailrace.runs set finished_at = finished_at - interval '31 days' where id = 'unpublished'"
    )
    rows = await all_rows(database)
    done = await archiver(database, tmp_path).archive_once(30)
    assert done.runs == 1
    left = await all_rows(database)
    assert left.pop("old") == rows.pop("old")[-1:]
    assert left == rows


async def test_a_run_with_a_gap_stays_and_is_named(database: Database, tmp_path: Path) -> None:
    """It holds no other run up, and nothing of it is deleted."""
    for run_id in ("a", "gap", "z"):
        await finished(database, run_id)
    await execute(database, "delete from tailrace.run_events where run_id = 'gap' and seq = 3")
    keeper = archiver(database, tmp_path)
    assert (await keeper.archive_once(0)).runs == 2
    assert keeper.gaps == {"gap"}
    assert (await keeper.archive_once(0)).runs == 0
    assert await value(database, "select count(*) from tailrace.run_events where run_id = 'gap'") == 5
    await assert_accounted(database, tmp_path)


async def test_restoring_puts_every_column_back(database: Database, tmp_path: Path) -> None:
    """The same rows as before; again does nothing; and they stay until the retention is over once more."""
    for run_id in ("a", "b"):
        await finished(database, run_id, events=40)
    before = await all_rows(database)
    await archive_all(database, tmp_path)
    keeper = archiver(database, tmp_path)
    assert await keeper.restore("a") == len(before["a"]) - 1
    assert (await all_rows(database))["a"] == before["a"]
    assert await keeper.restore("a") == 0
    assert await keeper.restore("nobody") is None
    assert (await keeper.archive_once(1)).rows_deleted == 0
    assert (await all_rows(database))["a"] == before["a"]
    again = await keeper.archive_once(0)
    assert (again.runs, again.rows_deleted) == (0, len(before["a"]) - 1)
    assert (await all_rows(database))["a"] == before["a"][-1:]
    await assert_accounted(database, tmp_path)


async def test_a_restore_that_was_cut_short_goes_on(database: Database, tmp_path: Path) -> None:
    """Rows come back from the last one down, so that what is there is a suffix at every moment."""
    await finished(database, "a", events=50)
    before = await all_rows(database)
    await archive_all(database, tmp_path)
    keeper = archiver(database, tmp_path)
    await keeper.restore("a")
    await execute(database, "delete from tailrace.run_events where run_id = 'a' and seq < 30")
    assert await keeper.restore("a") == 29
    assert (await all_rows(database))["a"] == before["a"]


async def test_what_reads_back_otherwise_costs_no_row(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that keeps something else than it was given is found out before anything is deleted."""
    await finished(database, "a")
    before = await all_rows(database)
    put = Vault.put

    def corrupting(vault: Vault, name: str, spool: Spool) -> int:
        other = Spool()
        group = [row._replace(ts=row.ts + 1) for row in rows]
        other.add(group)
        other.finish()
        try:
            return put(vault, name, other)
        finally:
            other.close()

    rows = (await whole_rows(database))["a"]
    with monkeypatch.context() as patch:
        patch.setattr(Vault, "put", corrupting)
        with pytest.raises(ArchiveMismatch, match="read back"):
            await archive_all(database, tmp_path)
    assert await all_rows(database) == before
    await archive_all(database, tmp_path)
    await assert_nothing_lost(database, tmp_path, {"a": rows})


async def test_an_object_that_is_lost_before_its_rows_are_deleted_costs_no_row(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows stay, and the turn says which object is lost; other objects' rows go."""
    await finished(database, "a")
    before = await all_rows(database)
    await archive_all(database, tmp_path)
    await archiver(database, tmp_path).restore("a")
    (path,) = objects_in(tmp_path)
    path.unlink()
    with pytest.raises(ArchiveMismatch, match=path.name):
        await archive_all(database, tmp_path)
    assert await all_rows(database) == before
    await finished(database, "b")
    with pytest.raises(ArchiveMismatch, match=path.name):
        await archive_all(database, tmp_path)
    left = await all_rows(database)
    assert (left["a"], len(left["b"])) == (before["a"], 1)


async def test_a_place_that_lost_its_marker_is_not_taken_for_an_empty_one(database: Database, tmp_path: Path) -> None:
    """A disk that is not mounted, or a wrong URL: nothing is written, nothing deleted."""
    await finished(database, "a")
    await archive_all(database, tmp_path / "here")
    await finished(database, "b")
    before = await all_rows(database)
    for other in ("elsewhere", "mounted"):
        (tmp_path / "mounted").mkdir(exist_ok=True)
        with pytest.raises(ArchiveUnavailable):
            await archive_all(database, tmp_path / other)
    assert await all_rows(database) == before
    assert not list((tmp_path / "mounted").iterdir())


async def test_one_process_at_a_time_changes_the_archive(database: Database, tmp_path: Path) -> None:
    """Another waits as long as it is told; a duty does not wait at all."""
    await finished(database, "a")
    async with turn(Archives(database, "other"), wait_seconds=0):
        with pytest.raises(ArchiveBusy):
            await archiver(database, tmp_path).archive_once(0, wait_seconds=0)
        assert await archiver(database, tmp_path).keep_once(0) is False
        waiting = asyncio.create_task(archiver(database, tmp_path).archive_once(0))
        assert await value(database, "select holder from tailrace.archive_turn") == "other"
    assert (await waiting).runs == 1


async def test_a_holder_that_was_replaced_changes_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen after its upload, it wakes when another has archived: its commit is refused and its object removed."""
    await finished(database, "a")
    before = await whole_rows(database)
    read_back = objects.read_back

    async def frozen(vault: Vault, name: str, size: int) -> object:
        monkeypatch.setattr(objects, "read_back", read_back)
        await execute(database, "update tailrace.archive_turn set until = now() - interval '1 second'")
        assert (await archiver(database, tmp_path, holder="second").archive_once(0)).runs == 1
        (tmp_path / name).write_bytes(b"what a frozen upload leaves")
        return digest.placed()

    keeper = archiver(database, tmp_path, holder="first")
    digest = Digest()
    digest.add(before["a"])
    monkeypatch.setattr(objects, "read_back", frozen)
    with pytest.raises(ArchiveBusy):
        await keeper.archive_once(0)
    assert await archiver(database, tmp_path).archive_once(0) == Archived()
    await assert_nothing_lost(database, tmp_path, before)
