"""The command line as a user has it: a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tailrace.store.database import Database
from tests.patience import PATIENCE_MS

AGENTS = """
import asyncio
import tailrace

app = tailrace.App()


@app.agent("count")
async def count(run):
    async with run.node("Count"):
        for number in range(run.input["to"]):
            await run.emit("Number", {"number": number})
    return {"counted": run.input["to"]}


@app.agent
async def wait(run):
    async with run.node("Wait"):
        await asyncio.sleep(600)
"""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Tailrace = Callable[..., Awaitable[Done]]


@pytest.fixture
def environment(tailrace_database: str, database: Database, tmp_path: Path) -> dict[str, str]:
    """What a command finds around it: the test's own schema, and a home of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    return kept | {
        "TAILRACE_DATABASE_URL": tailrace_database,
        "TAILRACE_DB_SCHEMA": database.schema,
        # A command that the machine stood still under has not failed.
        "TAILRACE_TX_TIMEOUT_MS": str(PATIENCE_MS),
        "HOME": str(tmp_path),
        "NO_COLOR": "1",
    }


@pytest.fixture
def tailrace(environment: dict[str, str], tmp_path: Path) -> Tailrace:
    """Run a command to its end: ``await tailrace("runs", "list", TAILRACE_LEASE_SECONDS="1")``."""

    async def run(*args: str, **more: str) -> Done:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tailrace", *args,
            env=environment | more, cwd=tmp_path,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    return run


@pytest.fixture
async def server(environment: dict[str, str], tmp_path: Path) -> AsyncIterator[str]:
    """URL of ``tailrace serve`` with two agents, all roles, on a free port."""
    (tmp_path / "agents.py").write_text(AGENTS)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tailrace", "serve", "--app", "agents.py", "--port", "0",
        env=environment, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    address = re.search(r"http://\S+", line)
    assert address is not None, (line, process.returncode)
    yield address[0]
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 0
