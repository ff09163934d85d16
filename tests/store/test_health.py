"""What the doctor's statements find in rows that are not as they should be."""

from __future__ import annotations

from tailrace.store.database import Database
from tailrace.store.health import Health
from tests.read_support import HandWrittenRun
from tests.write_support import execute


async def test_of_a_run_that_has_ended_only_a_hole_is_a_gap(database: Database) -> None:
    """Its beginning may be on its way out, and a run without it must not take the place of one that is suspect."""
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(5)
    await run.finish()
    for gone in (1, 2):
        await execute(database, "delete from tailrace.run_events where seq = $1", gone)
    assert await Health(database).with_gaps() == ([], 0)
    await execute(database, "delete from tailrace.run_events where seq = 4")
    assert await Health(database).with_gaps() == (["r"], 1)


async def test_a_run_in_progress_lacks_its_beginning_too(database: Database) -> None:
    """Nothing of it can have left."""
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(5)
    await execute(database, "delete from tailrace.run_events where seq = 1")
    assert await Health(database).with_gaps() == (["r"], 1)
