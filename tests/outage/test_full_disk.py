"""A disk that is full: writes are refused and tried again, nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import tailrace
from tailrace.errors import DatabaseUnavailable, LocalPostgresError
from tailrace.model.run import RunState
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.telemetry import DutyFailed
from tests.conftest import LEASE_SECONDS
from tests.outage.cluster import Cluster, running_cluster
from tests.patience import PATIENCE_MS, opened
from tests.write_support import running, verified_log


@pytest.fixture
def disk() -> Iterator[Path]:
    """A disk of 128 MB."""
    folder = Path(tempfile.mkdtemp(prefix="tailrace-full-", dir="/tmp"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=128m,mode=0755", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        folder.rmdir()
        pytest.skip("filling a disk needs a small one: root must be allowed to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


@pytest.fixture
def small(disk: Path) -> Iterator[Cluster]:
    """A server on that disk, which recycles what it has of its log and asks for no more."""
    home = disk / "home"
    home.mkdir(mode=0o755)
    try:
        with running_cluster(home, max_wal_size="32MB", min_wal_size="32MB", autovacuum="off") as made:
            yield made
    except LocalPostgresError as error:
        pytest.skip(f"this test needs the embedded Postgres's binaries: {error}")


def fill(disk: Path) -> Path:
    """Take all that is left of the disk, and return what has taken it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65536)
    return filler


async def test_runs_go_on_when_a_full_disk_has_room_again(disk: Path, small: Cluster) -> None:
    """Events are held back meanwhile, a start is refused, and every event that was returned from is there."""
    database = Database(small.url, schema="tailrace", tx_timeout_ms=PATIENCE_MS)
    emitted: list[int] = []

    async def agent(run: tailrace.Run) -> int:
        while not enough.is_set():
            await run.emit("Large", {"text": os.urandom(16_000).hex(), "number": len(emitted)})
            emitted.append(len(emitted))
        return len(emitted)

    async def said(more: int) -> None:
        wanted = len(emitted) + more
        while len(emitted) < wanted:
            small.ensure_running()  # It may have been about to give up when it was looked at before.
            await asyncio.sleep(0.01)

    enough = asyncio.Event()
    settings = Settings(database_url=small.url, log_level="error", lease_seconds=LEASE_SECONDS)
    async with opened(database, upgraded=True), running(settings, agent) as app:
        run_id = await app.start()
        await said(3)
        filler = await asyncio.to_thread(fill, disk)
        failed = await app.told.until(DutyFailed, duty="appender.flush")
        assert "space" in failed.error or "connect" in failed.error
        with pytest.raises(DatabaseUnavailable):
            await asyncio.gather(*(app.start("other", "x" * 100_000) for _ in range(100)))
        filler.unlink()
        await said(3)
        enough.set()
        run = await app.ended(run_id)
        assert run.state == RunState.FINISHED
        assert run.output == str(len(emitted))
        log = await verified_log(database, run_id)
    assert len([event for event in log if event.type == "Custom"]) == len(emitted)
