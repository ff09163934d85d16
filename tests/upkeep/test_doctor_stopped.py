"""`tailrace doctor`: stopped or killed, it leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tailrace.store.database import Database
from tailrace.store.leases import Leases
from tailrace.store.runs import Runs
from tests.outage_support import Served
from tests.upkeep.conftest import Doctor, MakeSettings, canaries, well
from tests.write_support import execute, fetch, queued, until, value


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_doctor_that_is_stopped_removes_its_canary(
    server: Served, settings: MakeSettings, database: Database, doctor: Doctor, how: signal.Signals
) -> None:
    """Asked to stop in the middle of the walk, it leaves nothing; what a killed one left the next one removes."""
    server.freeze()  # so that the walk waits
    leaving: list[int] = []

    async def stop() -> None:
        async def walking() -> bool | None:
            return await value(database, "select count(*) from tailrace.runs where id like 'canary-%'") or None

        await until(walking)
        found = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]  # noqa: ASYNC240 - it lies in memory
        (pid,) = [pid for pid in found if _is_doctor(pid, database.schema)]
        leaving.append(pid)
        os.kill(pid, how)

    async with asyncio.TaskGroup() as group:
        group.create_task(stop())
        told = await doctor()
    assert leaving
    assert (told.code, told.out) == (130, "")
    server.thaw()


async def test_what_a_killed_doctor_left_behind_is_removed_by_the_next(database: Database, doctor: Doctor) -> None:
    """And a run that merely has such an id stays; neither is ever in a list."""
    runs = Runs(database)
    for run_id in ("canary-old", "canary-young"):
        await queued(runs, run_id=run_id, agent=f"tailrace:canary:{run_id}")
        await Leases(database).record_agents([f"tailrace:canary:{run_id}"])
    await execute(database, "update tailrace.agents set seen_at = now() - interval '1 h' where name like '%canary-old'")
    listed, _ = await runs.list(state=None, agent=None, limit=10, cursor=None)
    assert listed == []
    told = await well(doctor, leaves=3)
    assert told.findings == []
    assert await canaries(database) == 3
    assert [row["id"] for row in await fetch(database, "select id from tailrace.runs")] == ["canary-young"]


def _is_doctor(pid: int, schema: str) -> bool:
    """Whether a process is the doctor that this one began, and not a fork of it on its way to another program."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # It has ended meanwhile.
    is_child = parent == os.getpid()
    return is_child and b"doctor" in command.split(b"\0") and f"TAILRACE_DB_SCHEMA={schema}".encode() in variables
