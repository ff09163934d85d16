"""Runs to write to, made and removed for each measurement."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tailrace.model.draft import Draft
from tailrace.model.event import EventType
from tailrace.store.database import Database
from tailrace.store.events import RunAppend
from tailrace.store.migrate import upgrade
from tailrace.store.runs import RunRequest, Runs

RUNS = 100
# About 185 bytes an event, as the peers were measured with.
DATA = json.dumps({"done": 3, "of": 9, "message": "x" * 60})
_SCHEMAS = itertools.count(1)


@asynccontextmanager
async def fresh_runs(url: str) -> AsyncIterator[tuple[Database, list[str]]]:
    """Yield a database with a schema of its own and ``RUNS`` started runs with epoch 1 and one event each."""
    database = Database(url, schema=f"bench_{next(_SCHEMAS)}", tx_timeout_ms=60_000)
    await database.open()
    try:
        await upgrade(database)
        ids = [f"run-{index:04d}" for index in range(RUNS)]
        for run_id in ids:
            await Runs(database).create(RunRequest(run_id, "bench", None, 1_790_000_000_000))
        await database.rows("lease_claim", "bench", ["bench"], RUNS, 3600.0)
        yield database, ids
        async with database.connection() as connection:
            await connection.execute(f'drop schema "{database.schema}" cascade')
    finally:
        await database.close()


def batch(ids: list[str], first_seq: int, count: int) -> list[RunAppend]:
    """Return an append of ``count`` events to every run."""
    drafts = [Draft(EventType.CUSTOM, 1_790_000_000_000, name="Progress", data=DATA)] * count
    return [RunAppend(run_id, 1, first_seq, drafts) for run_id in ids]
