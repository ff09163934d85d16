"""Processes that use the server, and ways to wait for what they do."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg

import tailrace

SOURCES = Path(tailrace.__file__).parents[1]
# Less than what the processes of these tests sleep that are left alone on purpose.
WAIT_SECONDS = 60.0

# What follows needs no more of Tailrace than this package, and starts sooner without the rest.
WITHOUT_THE_REST = f"""
import sys, types
tailrace = types.ModuleType("tailrace")
tailrace.__path__ = [{str(SOURCES / "tailrace")!r}]
sys.modules["tailrace"] = tailrace
"""

CLIENT = f"""{WITHOUT_THE_REST}
from pathlib import Path
from tailrace.local import start
with start(Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


class ClientProcess:
    """A process that has a share of the server until it is closed or killed."""

    def __init__(self, data_dir: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        """Wait until it has its share."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            assert self._process.stderr is not None
            raise AssertionError(self._process.stderr.read())
        return line

    def kill(self) -> None:
        """Kill it with SIGKILL, if it is still there."""
        self._process.kill()
        self._process.communicate()


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_SECONDS} s until {what}"
        time.sleep(0.005)


def is_alive(process: int) -> bool:
    """Tell whether the process runs; one that has ended and was not fetched by its parent does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def connect(url: str) -> asyncpg.Connection[asyncpg.Record]:
    """Connect, as often as it takes until the server is there again."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return await asyncpg.connect(url)
        except (OSError, asyncpg.PostgresError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.01)


async def query(url: str, statement: str) -> object:
    """Run a statement on a new connection and give its first value."""
    connection = await connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            await connection.close()


async def commit_row(url: str) -> None:
    """Commit a row, which nothing that follows may lose."""
    await query(url, "create table kept as select 'a committed row' as text")


async def assert_row_kept(url: str) -> None:
    """Find the committed row."""
    assert await query(url, "select text from kept") == "a committed row"
