"""Archiving takes as much memory for many events as for few."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.archive import archive
from tailrace.store.database import Database
from tests.archive_support import generated
from tests.patience import opened
from tests.write_support import value

EVENTS = 300_000
# Python with Arrow loaded is at 130 MB; it took 160 MB for 30,000 and 300,000 events, 213 for 10,000,000 (measured).
RSS_MAX_MB = 260


@pytest.mark.parametrize("runs", [1, 1000], ids=["one-run", "many-runs"])
async def test_memory_stays_flat(database: Database, tailrace_database: str, tmp_path: Path, runs: int) -> None:
    """Three hundred thousand events, as one run and as a thousand, within a bound that holds for any number."""
    async with opened(Database(tailrace_database, schema=database.schema, tx_timeout_ms=240_000)) as patient:
        await generated(patient, runs, EVENTS // runs)
    figures = archive(tailrace_database, database.schema, tmp_path)
    assert figures.events == EVENTS
    assert figures.max_rss_mb < RSS_MAX_MB
    assert await value(database, "select count(*) from tailrace.run_events") == runs
