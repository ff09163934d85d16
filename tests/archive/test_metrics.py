"""What `/metrics` says of the archive, scraped from real processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from tailrace.settings import Settings
from tailrace.store.database import Database
from tests.archive_support import finished, objects_in
from tests.cli.conftest import Tailrace, environment, tailrace  # noqa: F401 - fixtures
from tests.outage_support import Served, served
from tests.patience import PATIENCE_SECONDS
from tests.write_support import execute, until

AGENTS = Path(__file__).parent.parent / "upkeep" / "agents.py"


async def scrape(server: Served) -> dict[str, float]:
    """Return the archive's samples by name, with the reason where there is one."""
    async with httpx2.AsyncClient(base_url=server.address, timeout=PATIENCE_SECONDS) as http:
        text = (await http.get("/metrics")).text
    return {
        sample.name.removeprefix("tailrace_archive_") + "".join(f" {text}" for text in sample.labels.values()):
            sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("tailrace_archive_") and not sample.name.endswith("_created")
    }  # fmt: skip


async def test_what_the_worker_archives_and_what_is_restored_is_counted(
    database: Database,
    settings: Callable[..., Settings],
    tailrace: Tailrace,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    """Runs, events, bytes, the run that cannot go, and the moment; restored by a command, seen by the server."""
    place = {"TAILRACE_ARCHIVE_URL": str(tmp_path / "archive"), "TAILRACE_RETENTION_DAYS": "7"}
    for run_id, events in (("a", 3), ("b", 10), ("gap", 3), ("young", 3)):
        await finished(database, run_id, events=events)
    await execute(database, "update tailrace.runs set finished_at = now() - interval '8 days' where id <> 'young'")
    await execute(database, "delete from tailrace.run_events where run_id = 'gap' and seq = 2")
    begun = time.time()
    async with served(settings(), app=AGENTS, **place) as server:

        async def kept() -> dict[str, float] | None:
            found = await scrape(server)
            return found if found["last_success_timestamp_seconds"] else None

        found = await until(kept)
        assert begun <= found.pop("last_success_timestamp_seconds") <= time.time()
        assert found == {
            "runs_total": 2,
            "events_total": 19,
            "bytes_total": sum(path.stat().st_size for path in objects_in(tmp_path / "archive")),
            "failures_total turn": 0,
            "failures_total gap": 1,
            "restored_events": 0,
        }
        assert (await tailrace("archive", "restore", "b", **place)).code == 0
        assert (await scrape(server))["restored_events"] == 13
        assert (await tailrace("purge", "b", "--yes", **place)).code == 0
        assert (await scrape(server))["restored_events"] == 0


async def test_a_turn_that_fails_is_counted_and_is_no_success(
    database: Database, settings: Callable[..., Settings]
) -> None:
    """Where nothing can be made: each try counts, and the moment stays away."""
    async with served(settings(), app=AGENTS, TAILRACE_ARCHIVE_URL="/proc/nowhere/archive") as server:

        async def failed() -> dict[str, float] | None:
            found = await scrape(server)
            return found if found["failures_total turn"] >= 2 else None

        found = await until(failed)
    assert (found["last_success_timestamp_seconds"], found["runs_total"], found["failures_total gap"]) == (0, 0, 0)


async def test_a_process_without_an_archive_says_nothing_has_happened(
    database: Database, settings: Callable[..., Settings]
) -> None:
    """Every series is there from the start, at zero."""
    async with served(settings(), role="api") as server:
        found = await scrape(server)
    assert set(found.values()) == {0}
    assert len(found) == 7
