"""Archive many events in a process of its own, and say what it took: ``python -m bench.archive --events 10000000``.

Needs a Postgres on which databases can be created: TEST_DATABASE_URL, Docker, or the embedded one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg

from tailrace.store.database import Database
from tailrace.store.migrate import upgrade
from tailrace.testing.servers import postgres_server, with_database
from tests.archive_support import generated


@dataclass(frozen=True, slots=True)
class Figures:
    """What one archiving took."""

    events: int
    seconds: float
    cpu_seconds: float
    max_rss_mb: float
    store_mb: float
    objects: int


def archive(url: str, schema: str, folder: Path) -> Figures:
    """Run `tailrace archive run` over a schema, and return its figures."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("TAILRACE_")} | {
        "TAILRACE_DATABASE_URL": url,
        "TAILRACE_DB_SCHEMA": schema,
        "TAILRACE_ARCHIVE_URL": str(folder),
        "TAILRACE_LOG_LEVEL": "error",
    }
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "tailrace", "archive", "run", "--json"], env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    # Not what wait4 says: that begins with the memory of the process that was forked.
    peak_kb, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak_kb
        while not ended.wait(0.01):
            peak_kb = max(peak_kb, _peak_kb(process.pid))

    watching = threading.Thread(target=watch)
    watching.start()
    text = process.stdout.read()
    ended.set()
    watching.join()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise SystemExit(f"archiving ended with {process.returncode}")
    files = list(folder.glob("*.parquet"))
    return Figures(
        events=json.loads(text)["events"],
        seconds=round(time.monotonic() - begun, 1),
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 1),
        max_rss_mb=round(peak_kb / 1024, 1),
        store_mb=round(sum(file.stat().st_size for file in files) / 2**20, 1),
        objects=len(files),
    )


def _peak_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0  # It has ended and is not waited for yet.


async def _fill(url: str, runs: int, events: int) -> None:
    database = Database(url, schema="tailrace", tx_timeout_ms=600_000)
    await database.open()
    await upgrade(database)
    await generated(database, runs, events)
    await database.close()


async def _execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(sql)
    await connection.close()


def main() -> None:
    """Make the events, archive them, print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--per-run", type=int, default=1000)
    chosen = parser.parse_args()
    name = f"tailrace_bench_{secrets.token_hex(4)}"
    with postgres_server() as server, tempfile.TemporaryDirectory() as folder:
        asyncio.run(_execute(server, f'create database "{name}"'))
        try:
            url = with_database(server, name)
            begun = time.monotonic()
            asyncio.run(_fill(url, chosen.events // chosen.per_run, chosen.per_run))
            print(f"made {chosen.events} events in {time.monotonic() - begun:.1f} s", flush=True)
            print(json.dumps(asdict(archive(url, "tailrace", Path(folder)))))
        finally:
            asyncio.run(_execute(server, f'drop database "{name}" with (force)'))


if __name__ == "__main__":
    main()
