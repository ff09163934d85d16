"""`tailrace bench`: every row still runs and loses nothing.  What the figures are is no test's business."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import asyncpg
import pytest

from tailrace.bench.catalogue import ROWS
from tailrace.bench.children import child
from tailrace.store.database import Database
from tailrace.store.runs import Runs
from tests.local.processes import is_alive
from tests.patience import PATIENCE_SECONDS
from tests.write_support import queued


async def schemas(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    found = await connection.fetch("select nspname from pg_namespace where nspname like 'tailrace_bench%'")
    await connection.close()
    return {row["nspname"] for row in found}


@asynccontextmanager
async def started(
    folder: Path, url: str, *options: str, scale: Sequence[str] = ("--short",)
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the bench; what is left of it at the end of the block is killed, lest later tests be blamed for it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tailrace", "bench", *scale, *options,
        cwd=folder, env=kept | {"TAILRACE_DATABASE_URL": url}, preexec_fn=_interruptible,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def _interruptible() -> None:
    # A shell starts what it runs in the background deaf to SIGINT, and all that this starts inherits it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def document(folder: Path, url: str, *options: str) -> dict[str, Any]:
    async with started(folder, url, "--json", *options) as process:
        out, said = await process.communicate()
    assert process.returncode == 0, out.decode() + said.decode()
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize("name", [row.name for row in ROWS])
async def test_a_row_gives_every_figure_and_loses_nothing(name: str, tailrace_database: str, tmp_path: Path) -> None:
    """Each row is measured to its end, on a real server with real clients, and leaves no schema behind."""
    before = await schemas(tailrace_database)
    found = await document(tmp_path, tailrace_database, "--only", name)
    assert await schemas(tailrace_database) == before
    assert {"processor", "cores", "kernel", "python"} <= found["machine"].keys()
    assert {"postgres", "tailrace", "asyncpg"} <= found["versions"].keys()
    (row,) = found["rows"]
    (expected,) = (each for each in ROWS if each.name == name)
    assert row["name"] == name
    assert row["rounds"] == 1
    assert row["failed"] == {}
    figures = {figure["key"]: figure["ours"] for figure in row["figures"]}
    assert figures.keys() == {figure.key for figure in expected.figures}
    for key, spread in figures.items():
        assert spread is not None, key
        assert spread["smallest"] <= spread["median"] <= spread["largest"]
    assert figures.get("lost", {"median": 0})["median"] == 0
    assert figures.get("delivered", {"median": 100})["median"] == 100


async def test_runs_that_are_there_are_not_touched(tailrace_database: str, database: Database, tmp_path: Path) -> None:
    """Somebody's queued run is still queued afterwards, for agents of the bench have a schema of their own."""
    run_id = await queued(Runs(database), agent="flood")
    await document(tmp_path, tailrace_database, "--only", "append")
    run = await Runs(database).get(run_id)
    assert (run.state, run.last_seq) == ("queued", 1)


async def test_the_chart_is_svg_and_the_table_says_whether_goals_were_reached(
    tailrace_database: str, tmp_path: Path
) -> None:
    """`--chart` writes a picture; without `--json` a person reads the table."""
    async with started(tmp_path, tailrace_database, "--only", "append", "--chart", "chart.svg") as process:
        out, _ = await process.communicate()
    assert "bare group commit" in out.decode()
    assert "reached" in out.decode()
    root = ElementTree.fromstring((tmp_path / "chart.svg").read_text("utf-8"))  # noqa: S314 - our own
    assert root.tag.endswith("svg")
    assert any("Durable append" in (text.text or "") for text in root.iter())


async def test_an_interrupted_bench_leaves_neither_processes_nor_a_schema(
    tailrace_database: str, tmp_path: Path
) -> None:
    """Ctrl-C ends the servers and clients of the measurement and removes what it wrote."""
    before = await schemas(tailrace_database)
    # It would go on for minutes: whenever the signal comes, it comes in the midst.
    async with started(tmp_path, tailrace_database, "--only", "hot", scale=("--seconds", "60")) as process:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (children := _children(process.pid)) or await schemas(tailrace_database) == before:  # noqa: ASYNC110 - other processes do it
                await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await process.communicate()
    assert process.returncode == 130
    async with asyncio.timeout(PATIENCE_SECONDS):
        while any(is_alive(int(pid)) for pid in children):  # noqa: ASYNC110 - whoever has adopted one fetches it in its own time
            await asyncio.sleep(0.02)
    assert await schemas(tailrace_database) == before


async def test_an_interrupt_while_a_process_is_being_ended_ends_the_measurement(tmp_path: Path) -> None:
    """It kills the process, which does not end when asked, and is not taken for the process's own affair."""
    asked = asyncio.Event()
    pids: list[int] = []

    async def measure() -> None:
        async with child(["sh", "-c", "trap '' TERM; echo ready; read line"], folder=tmp_path) as process:
            assert process.stdout is not None
            await process.stdout.readline()
            pids.append(process.pid)
            asked.set()

    measuring = asyncio.create_task(measure())
    await asked.wait()
    await asyncio.sleep(0)  # It has left the block, and waits for the process.
    measuring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await measuring
    assert not is_alive(pids[0])


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()


async def test_a_row_that_is_not_there_is_a_usage_error_that_names_the_rows(
    tailrace_database: str, tmp_path: Path
) -> None:
    """A misspelt row measures nothing."""
    async with started(tmp_path, tailrace_database, "--only", "apend") as process:
        _, said = await process.communicate()
    assert process.returncode == 2
    assert "'apend'" in said.decode()
    assert "append" in said.decode()


async def test_other_commands_do_not_load_the_bench(tmp_path: Path) -> None:
    """What starts fast stays fast: the rows are imported by their own command alone."""
    code = "import sys, tailrace.cli.main; print([name for name in sys.modules if name.startswith('tailrace.bench')])"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"
