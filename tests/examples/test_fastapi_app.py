"""Tailrace mounted in somebody's FastAPI application, as the example does it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import httpx2

import tailrace
from tailrace.store.database import Database
from tailrace.store.runs import RunRequest, Runs
from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).parent.parent.parent


async def test_the_example_application_serves_its_own_routes_and_ours(
    tailrace_database: str, database: Database
) -> None:
    """Run by plain uvicorn: runs work under the prefix, and SIGTERM ends it although a stream is open."""
    environment = os.environ | {"TAILRACE_DATABASE_URL": tailrace_database, "TAILRACE_DB_SCHEMA": database.schema}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "fastapi_app:api", "--app-dir", str(ROOT / "examples"), "--port", "0",
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    address = None
    while address is None:
        line = (await process.stdout.readline()).decode()
        assert line, "uvicorn ended"
        address = re.search(r"running on (http://\S+)", line)
    async with (
        httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as http,
        tailrace.Client(f"{address[1]}/tailrace") as client,
    ):
        assert (await http.get(address[1])).json() == {"hello": "world"}
        run = await client.start("greet", {"name": "you"})
        events = [event async for event in client.stream(run.run_id)]
        assert "".join(event.data["letter"] for event in events if event.type == "Custom") == "Hello, you!"
        assert (await client.get(run.run_id)).output == "Hello, you!"
        started = await http.post(f"{address[1]}/tailrace/api/agents/runs", json={"agent": "greet"})
        assert started.headers["location"] == f"/tailrace/api/agents/runs/{started.json()['runId']}"
        queued, _ = await Runs(database).create(RunRequest("waits", "nobody", None, 1))
        async with http.stream("GET", f"{address[1]}/tailrace/api/agents/runs/{queued.id}/stream") as stream:
            lines = stream.aiter_lines()
            assert (await anext(lines)).startswith("retry: ")
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_SECONDS):
                rest = [line async for line in lines]
                await process.wait()
    assert any(line.startswith("retry: ") for line in rest)
