"""The README does what it says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tailrace.store.database import Database

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
FIRST_SCREEN_LINES = 60


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_first_screen_shows_both_commands_the_agent_and_the_resume() -> None:
    """What a newcomer needs stands above the fold."""
    screen = "\n".join(README.splitlines()[:FIRST_SCREEN_LINES])
    for wanted in ("make demo", "make test", "@app.agent", "curl -sN", "Last-Event-ID"):
        assert wanted in screen
    code = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(code) <= 15


def test_the_make_targets_it_names_exist() -> None:
    """No command in the README is made up."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's commands use curl, which this machine lacks")
async def test_the_agent_runs_and_curl_resumes_its_stream(
    tailrace_database: str, database: Database, tmp_path: Path
) -> None:
    """The code and the commands, word for word but for the port."""
    (tmp_path / "agent.py").write_text(blocks("python")[0])
    (tmp_path / "one.md").write_text("three little words")
    serve = next(line for block in blocks("sh") for line in block.splitlines() if line.startswith("tailrace serve"))
    start, follow, resume = next(block.splitlines() for block in blocks("sh") if block.startswith("curl"))
    environment = os.environ | {"TAILRACE_DATABASE_URL": tailrace_database, "TAILRACE_DB_SCHEMA": database.schema}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *shlex.split(serve), "--port", "0",
        env=environment, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    address = re.search(r"http://127\.0\.0\.1:\d+", (await process.stdout.readline()).decode())
    assert address is not None

    async def shell(command: str) -> str:
        curl = await asyncio.create_subprocess_shell(
            command.replace("http://127.0.0.1:8400", address[0]), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await curl.communicate()
        return out.decode()

    assert json.loads(await shell(start))["runId"] == "first"
    whole = _events(await shell(follow))
    rest = _events(await shell(resume))
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert [event["seq"] for event in whole] == [1, 2, 3, 4, 5, 6, 7]
    assert rest == whole[3:]
    assert [event["type"] for event in rest] == ["NodeStarted", "NodeFinished", "Custom", "RunFinished"]


def _events(stream: str) -> list[dict[str, object]]:
    return [json.loads(line.removeprefix("data: ")) for line in stream.split("\n") if line.startswith("data: ")]


def test_every_command_is_in_it() -> None:
    """What Tailrace can do is seen without looking further; docs/reference has the rest."""
    from tailrace.cli.main import COMMANDS  # noqa: PLC0415

    for command in COMMANDS:
        assert f"tailrace {command}" in README
