"""Roles apart: one process each, over one database."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

import tailrace
from tests.cli.conftest import AGENTS
from tests.patience import PATIENCE_SECONDS


@asynccontextmanager
async def serve(environment: dict[str, str], folder: Path, *args: str) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tailrace", "serve", "--port", "0", *args,
        env=environment, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    address = re.search(r"http://\S+", (await process.stdout.readline()).decode())
    assert address is not None
    try:
        yield address[0]
    finally:
        process.send_signal(signal.SIGTERM)
        await process.communicate()


async def test_an_api_a_worker_and_an_outbox_apart_do_the_whole_job(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """The API knows the agents by the database alone, and the wake-ups cross the processes."""
    (tmp_path / "agents.py").write_text(AGENTS)
    async with (
        serve(environment, tmp_path, "--role", "worker", "--app", "agents.py") as worker,
        serve(environment, tmp_path, "--role", "outbox") as outbox,
        serve(environment, tmp_path, "--role", "api") as api,
        tailrace.Client(api) as client,
        httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as http,
    ):
        run = await client.start("count", {"to": 50})
        seqs = [event.seq async for event in client.stream(run.run_id)]
        assert seqs == list(range(1, 55))
        for address in (worker, outbox, api):
            for probe in ("healthz", "readyz", "metrics"):
                assert (await http.get(f"{address}/{probe}")).status_code == httpx2.codes.OK
        for address in (worker, outbox):
            assert (await http.get(f"{address}/api/agents/runs")).status_code == httpx2.codes.NOT_FOUND
        refused = await http.get(f"{api}/healthz", headers={"Host": "rebound.example"})
        assert refused.status_code == httpx2.codes.MISDIRECTED_REQUEST


async def test_a_worker_that_stops_gives_its_runs_to_the_next(environment: dict[str, str], tmp_path: Path) -> None:
    """SIGTERM releases the leases: the run goes on elsewhere at once, not after its lease of ten minutes."""
    (tmp_path / "agents.py").write_text(AGENTS)
    patient = environment | {"TAILRACE_LEASE_SECONDS": "600"}
    async with (
        serve(patient, tmp_path, "--role", "outbox") as _,
        serve(patient, tmp_path, "--role", "api") as api,
        tailrace.Client(api) as client,
    ):
        async with serve(patient, tmp_path, "--role", "worker", "--app", "agents.py"):
            run = await client.start("wait")
            async for event in client.stream(run.run_id):
                if event.type == "NodeStarted":
                    break
        async with (
            serve(patient, tmp_path, "--role", "worker", "--app", "agents.py"),
            asyncio.timeout(PATIENCE_SECONDS),
        ):
            async for event in client.stream(run.run_id):
                # Not the event before it, run.resumed: cancelled right then, the agent would not be called any more.
                if event.type == "NodeStarted" and event.seq > 3:
                    break
            await client.cancel(run.run_id)
            types = [event.type async for event in client.stream(run.run_id)]
    assert types == ["RunStarted", "NodeStarted", "DebugTrace", "NodeStarted", "RunCancelled"]


async def test_what_a_served_process_starts_with_is_not_collected_again_and_again(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """A full collection of it would stop every stream for as long as some pages take to load."""
    (tmp_path / "frozen.py").write_text(
        "import gc\n\nimport tailrace\n\napp = tailrace.App()\n\n\n"
        "@app.agent\nasync def frozen(run):\n"
        "    return {'frozen': gc.get_freeze_count(), 'tracked': len(gc.get_objects())}\n"
    )
    async with serve(environment, tmp_path, "--app", "frozen.py") as address, tailrace.Client(address) as client:
        run = await client.start("frozen")
        assert [event.type async for event in client.stream(run.run_id)] == ["RunStarted", "RunFinished"]
        output = (await client.get(run.run_id)).output
    assert output is not None
    assert output["frozen"] > output["tracked"] > 0
