"""What the tests of the archive share: finished runs, their rows, and what must hold between rows and objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailrace.archive.archiver import Archived, Archiver
from tailrace.archive.vault import MARKER, Vault
from tailrace.store.archives import Archives, Row
from tailrace.store.database import Database
from tailrace.telemetry import Telemetry
from tests.read_support import DeafBus, HandWrittenRun, custom, publish_all
from tests.write_support import execute, fetch

ODD = {"text": 'ä\u2028 \\u0000-less "quotes" \n', "number": 1.50, "deep": [[{}]], "same": None}


async def finished(database: Database, run_id: str, events: int = 3, *, publish: bool = True, size: int = 0) -> None:
    """Make a finished run of ``events`` Custom events between RunStarted and RunFinished."""
    run = await HandWrittenRun.start(database, run_id)
    data = ODD | {"run": run_id, "filler": "x" * size}
    await run.append_many(events, data)
    await run.append(custom(None, name="no data\x1e\x1f"))
    await run.finish()
    if publish:
        await publish_all(database, DeafBus())


async def generated(database: Database, runs: int, events: int) -> None:
    """Make finished, published runs by SQL: many, quickly."""
    await execute(
        database,
        """
        insert into tailrace.runs (id, agent, state, last_seq, epoch, started_at, finished_at)
        select 'g' || lpad(n::text, 6, '0'), 'a', 'finished', $2, 1,
            now() - interval '41 days', now() - interval '40 days'
        from generate_series(1, $1) as n
        """,
        runs,
        events,
    )
    await execute(
        database,
        "insert into tailrace.run_outbox (run_id, next_seq, open) select id, last_seq + 1, false from tailrace.runs",
    )
    await execute(
        database,
        """
        insert into tailrace.run_events (run_id, seq, ts, type, source, name, data, epoch, published_at)
        select runs.id, seq, 1790000000000 + seq,
            case seq when 1 then 'RunStarted' when runs.last_seq then 'RunFinished' else 'Custom' end,
            case seq when 1 then 'api' else 'worker' end,
            case when seq > 1 and seq < runs.last_seq then 'Progress' end,
            case when seq > 1 and seq < runs.last_seq
                then format('{"done":%s,"token":"%s"}', seq, md5(runs.id || seq))::json end,
            case seq when 1 then 0 else 1 end, clock_timestamp()
        from tailrace.runs as runs cross join generate_series(1, runs.last_seq) as seq
        """,
    )


async def all_rows(database: Database) -> dict[str, list[Any]]:
    """Return every row of ``run_events``, whole, by run."""
    rows: dict[str, list[Any]] = {}
    for row in await fetch(database, "select *, data::text as text from tailrace.run_events order by run_id, seq"):
        rows.setdefault(row["run_id"], []).append(tuple(row))
    return rows


def archiver(database: Database, folder: Path, *, object_events: int = 500_000, holder: str = "test") -> Archiver:
    return Archiver(Archives(database, holder), Vault(str(folder)), Telemetry(), object_events=object_events)


async def archive_all(database: Database, folder: Path, *, object_events: int = 500_000) -> Archived:
    """Archive whatever has finished, as `tailrace archive run --older-than 0` does."""
    keeper = archiver(database, folder, object_events=object_events)
    done = await keeper.archive_once(0)
    while done.more:
        done += await keeper.archive_once(0)
    return done


async def whole_rows(database: Database) -> dict[str, list[Row]]:
    """Return every row as the archive knows rows."""
    ids = await fetch(database, "select id, last_seq from tailrace.runs order by id")
    archives = Archives(database, "test")
    return {row["id"]: list(await archives.page([(row["id"], 0, row["last_seq"])], 1 << 40)) for row in ids}


async def assert_nothing_lost(database: Database, folder: Path, before: dict[str, list[Row]]) -> None:
    """Every row is in the archive as it was, only last rows are in Postgres, and every object is accounted for."""
    archives, vault = Archives(database, "test"), Vault(str(folder))
    held = {run.run_id: run for run in await archives.list("", 10_000)}
    assert held.keys() == before.keys()
    for run_id, run in held.items():
        rows: list[Row] = []
        while len(rows) < run.events:
            due = run.first_row + len(rows)
            start, group = vault.group(run.object, run.size_bytes, vault.group_of(run.object, run.size_bytes, due))
            rows += group[due - start :][: run.events - len(rows)]
        assert rows == before[run_id]
        assert run.trimmed
    left = await whole_rows(database)
    assert left == {run_id: rows[-1:] for run_id, rows in before.items()}
    await assert_accounted(database, folder)


async def assert_accounted(database: Database, folder: Path) -> None:
    """The folder has the stored objects and the marker, nothing else, and no stored object is without a run."""
    names = await fetch(database, "select name from tailrace.archive_objects where state = 'stored'")
    assert sorted([MARKER, *(row["name"] for row in names)]) == names_in(folder)
    used = await fetch(database, "select distinct object from tailrace.run_archive")
    assert {row["object"] for row in used} == {row["name"] for row in names}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def objects_in(folder: Path) -> list[Path]:
    """Return the objects in a folder, none when it is not there."""
    return sorted(folder.glob("*.parquet"))
