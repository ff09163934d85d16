"""Old processes on a newer schema, new ones beside them: nobody who follows a run notices an upgrade."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import tailrace
from tailrace.settings import Settings
from tailrace.store.migrate import migrations
from tests.migrations.rolling import fresh_schema, roll
from tests.write_support import fetch, value

OLD = Path(tailrace.__file__).parent.parent
# One of each thing that a migration may do to the code before it.
EXPAND = """
alter table tailrace.runs add column note text;
alter table tailrace.run_events add column hand text not null default 'left';
create table tailrace.tallies (run_id text primary key, events bigint not null);
create index runs_note on tailrace.runs (note) where note is not null;
create function tailrace.tally() returns trigger language plpgsql as $$
begin
    insert into tailrace.tallies as tally (run_id, events)
    select run_id, count(*) from inserted group by run_id
    on conflict (run_id) do update set events = tally.events + excluded.events;
    return null;
end $$;
create trigger tally
    after insert on tailrace.run_events
    referencing new table as inserted
    for each statement execute function tailrace.tally();
"""


async def test_a_service_is_upgraded_while_it_is_used(
    tailrace_database: str, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """This code is the old one, this code with one more migration the new one.

    New code refuses the old schema; old processes start, execute, take over, publish and stream on the new one, and one
    that starts there is refused; the runs go on in the new process, and every client has every event once.
    """
    new = tmp_path / "new"
    shutil.copytree(OLD / "tailrace", new / "tailrace", ignore=shutil.ignore_patterns("__pycache__"))
    version = migrations()[-1].version + 1
    (new / "tailrace" / "store" / "migrations" / f"{version:04d}_expand.sql").write_text(EXPAND)
    async with fresh_schema(tailrace_database, "rolling") as database:
        one = settings(db_schema=database.schema, lease_seconds=3)
        seen = await roll(one, database, OLD, new, tmp_path)
        tallies = await fetch(database, "select run_id, events from tailrace.tallies")
        assert await value(database, "select count(*) from tailrace.run_events where hand <> 'left'") == 0
        for row in tallies:
            written = await value(
                database,
                "select count(*) from tailrace.run_events where run_id = $1",
                row["run_id"],
            )
            assert 0 < row["events"] <= written
    ready = [json.loads(line.partition(" with 200 ")[2])["checks"]["schema"] for line in seen if "/readyz" in line]
    assert ready == ["ahead", "ok"]
