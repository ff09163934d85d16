"""``tailrace serve --processes``: several real processes on one port, and what happens when they die."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

import tailrace
from tests.local.processes import is_alive
from tests.local.processes import until as until_true
from tests.patience import PATIENCE_SECONDS

AGENTS = """
import asyncio, os
from pathlib import Path
import tailrace

app = tailrace.App()


@app.agent("pid")
async def pid(run):
    async with run.node("Pid"):
        return os.getpid()


@app.agent("gate")
async def gate(run):
    async with run.node("Gate"):
        Path(run.input["entered"]).write_text(str(os.getpid()))
        while not Path(run.input["open"]).exists():
            await asyncio.sleep(0.01)
    return os.getpid()
"""


class Serving:
    """A parent with its processes."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    @property
    def children(self) -> set[int]:
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return {int(pid) for pid in found.stdout.split()}

    async def get(self, path: str) -> httpx2.Response:
        """Ask over a connection of its own, which any of the processes may take."""
        async with httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as client:
            return await client.get(f"{self.url}{path}")

    async def pid_of_a_run(self) -> int:
        """Start a run over a connection of its own and return the process that executed it."""
        async with tailrace.Client(self.url) as client:
            run = await client.start("pid")
            async for _ in client.stream(run.run_id):
                pass
            pid = (await client.get(run.run_id)).output
        assert isinstance(pid, int)
        return pid


@asynccontextmanager
async def serve(environment: dict[str, str], folder: Path, *args: str) -> AsyncIterator[Serving]:
    (folder / "agents.py").write_text(AGENTS)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tailrace", "serve", "--app", "agents.py", "--port", "0", "--processes", "2", *args,
        env=environment, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    address = re.search(r"(http://\S+) in 2 processes", line)
    assert address is not None, (line, process.returncode)
    serving = Serving(process, address[1])
    children = serving.children
    try:
        yield serving
    finally:
        children |= serving.children
        if process.returncode is None:
            process.kill()
        await process.wait()
        # Left alone, they end by themselves.
        await asyncio.to_thread(until_true, lambda: not any(map(is_alive, children)), "the processes have ended")


async def until(look: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await look():  # noqa: ASYNC110 - it happens in other processes
            await asyncio.sleep(0.02)


async def test_each_of_two_processes_serves_the_port(environment: dict[str, str], tmp_path: Path) -> None:
    """While one is frozen the other takes the connections and executes the runs, and the other way round."""
    async with serve(environment, tmp_path) as serving:
        first, second = sorted(serving.children)
        for frozen, other in ((first, second), (second, first)):
            os.kill(frozen, signal.SIGSTOP)
            try:
                assert (await serving.get("/healthz")).status_code == 200
                assert await serving.pid_of_a_run() == other
            finally:
                os.kill(frozen, signal.SIGCONT)

        async def both_are_counted() -> bool:
            text = (await serving.get("/metrics")).text
            started = {
                sample.labels["process"]: sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == "tailrace_runs_started_total"
            }
            return started == {"0": 1.0, "1": 1.0}

        await until(both_are_counted)


async def test_a_process_that_is_killed_is_replaced_and_its_run_goes_on(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Requests are answered all the while; the run is taken over after its lease, and finishes."""
    entered, gate = tmp_path / "entered", tmp_path / "open"
    async with serve(environment | {"TAILRACE_LEASE_SECONDS": "3"}, tmp_path) as serving:
        before = serving.children
        async with tailrace.Client(serving.url) as client:
            run = await client.start("gate", {"entered": str(entered), "open": str(gate)})

        async def has_entered() -> bool:
            return entered.exists() and entered.read_text() != ""

        await until(has_entered)
        victim = int(entered.read_text())
        assert victim in before
        os.kill(victim, signal.SIGKILL)
        assert (await serving.get("/healthz")).status_code == 200

        async def is_replaced() -> bool:
            return len(serving.children - {victim}) == 2

        await until(is_replaced)
        gate.touch()
        async with tailrace.Client(serving.url) as client:
            events = [event async for event in client.stream(run.run_id)]
            view = await client.get(run.run_id)
        assert view.state == "finished"
        assert view.output != victim
        assert [event.seq for event in events] == list(range(1, view.last_seq + 1))
        (newcomer,) = serving.children - before
        (other,) = serving.children & before
        # The one that has come serves like the one that was there.
        os.kill(other, signal.SIGSTOP)
        try:
            await until(lambda: is_ready(serving))
            assert await serving.pid_of_a_run() == newcomer
        finally:
            os.kill(other, signal.SIGCONT)


async def is_ready(serving: Serving) -> bool:
    return (await serving.get("/readyz")).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_the_parent_ends_all(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    """Open streams end in order, and the exit code is 0."""
    async with serve(environment, tmp_path) as serving:
        children = serving.children
        async with tailrace.Client(serving.url) as client, httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as http:
            run = await client.start("gate", {"entered": str(tmp_path / "e"), "open": str(tmp_path / "never")})
            async with http.stream("GET", f"{serving.url}/api/agents/runs/{run.run_id}/stream") as stream:
                lines = stream.aiter_lines()
                assert (await anext(lines)).startswith("retry: ")
                serving.process.send_signal(number)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    rest = [line async for line in lines]
                    code = await serving.process.wait()
        assert code == 0
        assert any(line.startswith("retry: ") for line in rest)
        assert not any(map(is_alive, children))


async def test_the_death_of_the_parent_ends_all(environment: dict[str, str], tmp_path: Path) -> None:
    """Nobody is left behind to hold the port."""
    async with serve(environment, tmp_path) as serving:
        children = serving.children
        serving.process.kill()
        await serving.process.wait()
        await asyncio.to_thread(until_true, lambda: not any(map(is_alive, children)), "they have noticed")
        host, port = serving.url.removeprefix("http://").split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port))).close()


async def test_they_share_one_embedded_postgres_that_goes_with_them(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Made once at the first start, used by both, stopped after the last."""
    data = tmp_path / "data"
    kept = {name: text for name, text in environment.items() if not name.startswith("TAILRACE_")}
    async with serve(kept | {"TAILRACE_DATA_DIR": str(data)}, tmp_path) as serving:
        assert isinstance(await serving.pid_of_a_run(), int)
        (postmaster,) = {int(file.read_text().split("\n")[0]) for file in data.glob("*/data/postmaster.pid")}
        assert is_alive(postmaster)
        serving.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(serving.process.wait(), PATIENCE_SECONDS) == 0
    await asyncio.to_thread(until_true, lambda: not is_alive(postmaster), "the embedded Postgres has stopped")


@pytest.mark.parametrize(
    ("more", "args", "code", "text"),
    [
        ({"TAILRACE_DATABASE_URL": "postgresql://u:p@127.0.0.1:9/x"}, [], 1, "127.0.0.1:9"),
        ({"TAILRACE_BUS_URL": "memory://"}, [], 2, "one process alone"),
        ({"TAILRACE_LEASE_SECONDS": "0"}, [], 2, "TAILRACE_LEASE_SECONDS"),
        ({}, ["--app", "missing.py"], 2, "there is no file"),
        ({}, ["--processes", "0"], 2, "from 1 to"),
        ({}, ["--host", "0.0.0.0"], 2, "loopback"),  # noqa: S104 - it is refused
        ({}, ["--child-of", "x"], 2, "--child-of"),
    ],
)
async def test_what_is_wrong_at_the_start_is_said_once_and_ends_it(
    environment: dict[str, str], tmp_path: Path, more: dict[str, str], args: list[str], code: int, text: str
) -> None:
    """With the exit code of a single process, and nobody is started again and again."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tailrace", "serve", "--port", "0", "--processes", "2", *args,
        env=environment | more, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert (process.returncode, out) == (code, b"")
    assert err.decode().count(text) == 1, err.decode()
    assert "Traceback" not in err.decode()
