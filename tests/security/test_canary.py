"""No secret in any log, error or repr: distinctive ones go in everywhere, and nothing that comes out has them."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

import tailrace
from tailrace.http.requests import StartRun
from tailrace.http.views import RunView, StreamToken
from tailrace.model.run import RunRow
from tailrace.settings import Settings
from tailrace.store.runs import RunRequest
from tests.cli.conftest import AGENTS, Tailrace, environment
from tests.cli.conftest import tailrace as tailrace_command
from tests.patience import PATIENCE_SECONDS
from tests.read_support import RUNS

__all__ = ["environment", "tailrace_command"]
INPUT = "canary-run-input-5f2a"
IDEMPOTENCY = "canary-idempotency-77b1"
PASSWORD = "canary-database-password-3c9d"
TOKEN = "canary-token-e01f"


def canaries(*texts: str) -> list[str]:
    """Which secrets stand in the texts."""
    everything = "\n".join(texts)
    return [secret for secret in (INPUT, IDEMPOTENCY, PASSWORD, TOKEN) if secret in everything]


async def test_a_server_that_says_all_it_can_says_no_secret(
    tailrace_command: Tailrace, environment: dict[str, str], tmp_path: Path
) -> None:
    """Level debug, a line for each event, good requests and bad, a broken keys file, a revoked key."""
    (tmp_path / "agents.py").write_text(AGENTS)
    file = tmp_path / "keys.json"
    environment |= {
        "TAILRACE_API_KEYS_FILE": str(file),
        "TAILRACE_LOG_LEVEL": "debug",
        "TAILRACE_LOG_EVENTS": "1",
        "TAILRACE_API_KEY": f"tr_{PASSWORD}",
    }
    made = json.loads((await tailrace_command("keys", "create", "--name", "a", "--scopes", "admin", "--json")).out)
    key = made["key"]
    log = (tmp_path / "err").open("wb")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tailrace", "serve", "--app", "agents.py", "--port", "0",
        env=environment, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=log,
    )  # fmt: skip
    log.close()
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    address = re.search(r"http://\S+", line)
    assert address is not None, (tmp_path / "err").read_text()
    async with httpx2.AsyncClient(base_url=address[0], timeout=PATIENCE_SECONDS) as http:
        refusals = await exercise(http, key)
        signing = json.loads(file.read_text())["signing"][0]["secret"]
        file.write_text(file.read_text().replace('"version"', '"verse"'))
        refusals.append(await until_logged(http, tmp_path / "err", "keys.broken"))
    process.send_signal(signal.SIGTERM)
    out, _ = await process.communicate()
    written = [line, out.decode(), (tmp_path / "err").read_text()]
    assert "metric.events_published" in written[2]
    assert canaries(*written, *refusals) == []
    password = urlsplit(environment["TAILRACE_DATABASE_URL"]).password
    for secret in (key, key[-64:], made["id"] + "_", signing, "eyJ", *([password] if password else [])):
        assert not [text for text in (*written, *refusals) if secret in text]


async def exercise(http: httpx2.AsyncClient, key: str) -> list[str]:
    """Do what can be done and what cannot; return the bodies of the refusals."""
    signed = {"Authorization": f"Bearer {key}", "Idempotency-Key": IDEMPOTENCY}
    body = {"agent": "count", "input": {"to": 2, "secret": INPUT}, "runId": "r"}
    assert (await http.post(RUNS, json=body, headers=signed)).status_code == 201
    token = (await http.post(f"{RUNS}/r/stream-token", headers=signed)).json()["token"]
    assert (await http.get(f"{RUNS}/r/stream?token={token}")).status_code == 200
    failing: dict[str, Any] = {"agent": "count", "input": {"to": INPUT}, "runId": "failing"}
    assert (await http.post(RUNS, json=failing, headers={"Authorization": f"Bearer {key}"})).status_code == 201
    assert (await http.get(f"{RUNS}/failing/stream", headers=signed)).status_code == 200
    refusals = [
        await http.post(RUNS, json={**body, "input": INPUT}, headers=signed),
        await http.post(RUNS, json={**body, "agent": 7}, headers=signed),
        await http.post(RUNS, content=f'{{"agent": "{INPUT}'.encode(), headers=signed),
        await http.post(RUNS, json=body, headers={**signed, "Idempotency-Key": IDEMPOTENCY * 30}),
        await http.post(RUNS, json=body, headers={**signed, "Idempotency-Key": f"{IDEMPOTENCY} x"}),
        await http.post(RUNS, json=body, headers={"Authorization": f"Bearer {key}"}),
        await http.post(f"{RUNS}/r/cancel", headers=signed),
        await http.get(RUNS, headers={"Authorization": f"Bearer {key}x"}),
        await http.get(RUNS, headers={"Authorization": f"Basic {TOKEN}"}),
        await http.get(f"{RUNS}/r/stream?token={TOKEN}"),
        await http.get(f"{RUNS}/other/stream?token={token}"),
        await http.get(f"{RUNS}?api_key={key}"),
        await http.get(f"{RUNS}/r/stream?token={token}&fromSeq={TOKEN}"),
        await http.get(f"{RUNS}?cursor={TOKEN}", headers=signed),
    ]
    assert [answer.status_code for answer in refusals] == [422] * 5 + [409, 409] + [401] * 4 + [400, 422, 422]
    return [answer.text for answer in refusals]


async def until_logged(http: httpx2.AsyncClient, log: Path, event: str) -> str:
    """Ask until the log has a line, and return the last answer."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            answer = await http.get(RUNS, headers={"Authorization": f"Bearer {TOKEN}"})
            if event in log.read_text():  # noqa: ASYNC240 - a small file of the test's own
                return answer.text
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("args", "more"),
    [
        (("db", "status"), {"TAILRACE_DATABASE_URL": f"postgresql://u:{PASSWORD}@[/none"}),
        (("runs", "list", "--url", f"http://u:{PASSWORD}@127.0.0.1:9"), {"TAILRACE_API_KEY": TOKEN}),
        (("runs", "list", "--url", "http://127.0.0.1:9"), {"TAILRACE_API_KEY": f"{TOKEN} {TOKEN}"}),
        (("keys", "list"), {"TAILRACE_API_KEYS_FILE": "broken.json"}),
        (("serve", "--port", "0"), {"TAILRACE_API_KEYS_FILE": "broken.json"}),
    ],
)
async def test_a_command_that_fails_repeats_no_secret(
    tailrace_command: Tailrace, tmp_path: Path, args: tuple[str, ...], more: dict[str, str]
) -> None:
    """One clear error, without what was found where it matters."""
    (tmp_path / "broken.json").write_text(f'{{"version": 1, "keys": [{{"id": "{TOKEN}", "key": "{TOKEN}"}}]}}')
    done = await tailrace_command(*args, **more)
    assert done.code in (1, 2)
    assert done.err.startswith("tailrace: ")
    assert canaries(done.out, done.err) == []


async def test_no_repr_holds_a_secret() -> None:
    """Objects land in logs and error reports of the applications that use them."""
    settings = Settings(database_url=f"postgresql://u:{PASSWORD}@h/d", api_key=TOKEN)
    now = "2026-01-01T00:00:00Z"
    view = {"runId": "r", "agent": "a", "state": "queued", "lastSeq": 1, "nextSeq": 1, "backlog": 1, "createdAt": now}
    shown = [
        settings,
        tailrace.App(settings),
        tailrace.Client("http://h", api_key=TOKEN),
        RunRequest("r", "a", INPUT, 1, IDEMPOTENCY, IDEMPOTENCY.encode()),
        StartRun(agent="a", input=INPUT),
        RunView.model_validate({**view, "updatedAt": now, "input": INPUT, "output": INPUT}),
        StreamToken.model_validate({"token": TOKEN, "expiresAt": now}),
    ]
    shown.append(RunRow("r", "a", "queued", INPUT, INPUT, 1, 1, *[None] * 7))  # type: ignore[arg-type]
    assert canaries(*map(repr, shown), *map(str, shown)) == []
