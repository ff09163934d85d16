"""``tailrace keys``, and what the other commands do with keys."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import stat
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest

from tailrace.cli import main
from tests.cli.conftest import AGENTS, Done, Tailrace
from tests.patience import PATIENCE_SECONDS
from tests.read_support import RUNS

FAILED, USAGE = 1, 2


@pytest.fixture
def with_keys(environment: dict[str, str], tmp_path: Path) -> Path:
    """The keys file that every command of the test is told of; it is not there yet."""
    path = tmp_path / "keys.json"
    environment["TAILRACE_API_KEYS_FILE"] = str(path)
    return path


@pytest.fixture
def call(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run a command in this process, which is quicker; only for those that leave nothing behind."""

    def run(*args: str, **more: str) -> Done:
        with monkeypatch.context() as patch:
            for name, value in (environment | more).items():
                patch.setenv(name, value)
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", ["tailrace", *args])
            with pytest.raises(SystemExit) as ended:
                main()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


def test_a_key_is_made_listed_and_revoked(call: Callable[..., Done], with_keys: Path) -> None:
    """Alone on stdout and shown once; the file has its hash; revoking twice is as revoking once."""
    made = call("keys", "create", "--name", "ci", "--tenant", "acme", "--scopes", "runs:read,runs:write")
    assert (made.code, made.err) == (0, "")
    key = made.out.strip()
    assert re.fullmatch(r"tr_[0-9a-f]{12}_[0-9a-f]{64}", key)
    assert made.out == f"{key}\n"
    assert stat.S_IMODE(with_keys.stat().st_mode) == 0o600
    assert key[-64:] not in with_keys.read_text()
    document = json.loads((call("keys", "create", "--name", "ops", "--scopes", "admin", "--json")).out)
    assert set(document) == {"id", "key", "name", "tenant", "scopes"}
    assert (document["tenant"], document["scopes"]) == ("default", ["admin"])
    listed = json.loads((call("keys", "list", "--json")).out)["keys"]
    assert [entry["name"] for entry in listed] == ["ci", "ops"]
    assert set(listed[0]) == {"id", "name", "tenant", "scopes", "createdAt", "revokedAt"}
    times = [json.loads((call("keys", "revoke", listed[0]["id"], "--json")).out)["revokedAt"] for _ in range(2)]
    assert times[0] is not None
    assert times[0] == times[1]
    shown = (call("keys", "list")).out
    assert all(word in shown for word in ("acme", "ci", "runs:read,runs:write", listed[0]["id"]))
    nobody = call("keys", "revoke", "nobody")
    assert (nobody.code, "nobody" in nobody.err) == (FAILED, True)


async def test_keys_that_are_made_at_the_same_moment_are_all_kept(tailrace: Tailrace, with_keys: Path) -> None:
    """Also when the file is made by one of them."""
    done = await asyncio.gather(*(tailrace("keys", "create", "--name", f"n{number}") for number in range(3)))
    assert [made.code for made in done] == [0] * 3
    listed = json.loads((await tailrace("keys", "list", "--json")).out)["keys"]
    assert {entry["name"] for entry in listed} == {f"n{number}" for number in range(3)}
    assert {entry["id"] for entry in listed} == {made.out.split("_")[1] for made in done}


def test_signing_keys_rotate(call: Callable[..., Done], with_keys: Path) -> None:
    """The previous one stays, marked; it can be dropped; the API keys are not touched."""
    call("keys", "create", "--name", "a")
    before = json.loads(with_keys.read_text())
    rotated = json.loads((call("keys", "rotate-signing", "--json")).out)
    after = json.loads(with_keys.read_text())
    assert [entry["id"] for entry in after["signing"]] == [rotated["id"], before["signing"][0]["id"]]
    assert (after["signing"][0]["retiredAt"], after["signing"][1]["retiredAt"] is None) == (None, False)
    assert after["keys"] == before["keys"]
    assert (call("keys", "rotate-signing", "--drop-previous")).code == 0
    assert len(json.loads(with_keys.read_text())["signing"]) == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("create",), "--name"),
        (("create", "--name", ""), "--name"),
        (("create", "--name", "a\nb"), "--name"),
        (("create", "--name", "a", "--tenant", "a b"), "--tenant"),
        (("create", "--name", "a", "--tenant", ""), "--tenant"),
        (("create", "--name", "a", "--scopes", "runs:read,runs:delete"), "runs:write"),
        (("create", "--name", "a", "--scopes", ","), "--scopes"),
        (("list",), "tailrace keys create"),
        (("rotate-signing",), "tailrace keys create"),
    ],
)
def test_a_mistake_is_one_clear_error(
    call: Callable[..., Done], with_keys: Path, args: tuple[str, ...], said: str
) -> None:
    """And makes no file."""
    done = call("keys", *args)
    assert (done.code, said in done.err) == (USAGE, True)
    assert "Traceback" not in done.err
    assert not with_keys.exists()


def test_without_the_setting_the_command_names_it(call: Callable[..., Done]) -> None:
    """There is no default place that a server would not look at."""
    done = call("keys", "create", "--name", "a")
    assert (done.code, "TAILRACE_API_KEYS_FILE" in done.err) == (USAGE, True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"TAILRACE_CORS_ORIGINS": "*", "TAILRACE_API_KEYS_FILE": "k"}, "must name the origins"),
        ({"TAILRACE_CORS_ORIGINS": "app.example"}, "https://app.example"),
        ({"TAILRACE_CORS_ORIGINS": "https://app.example/"}, "https://app.example"),
        ({"TAILRACE_STREAM_TOKEN_SECONDS": "0"}, "greater than 0"),
    ],
)
def test_serve_refuses_settings_that_would_let_others_in(
    call: Callable[..., Done], more: dict[str, str], said: str
) -> None:
    """By name, before it listens to anybody."""
    done = call("serve", "--port", "0", **more)
    assert (done.code, said in done.err) == (USAGE, True)
    assert "Traceback" not in done.err


async def test_revoking_a_key_ends_its_open_streams_and_no_others(
    tailrace: Tailrace, with_keys: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """`tailrace keys revoke` beside a server that runs: the streams of the key and of a token made with it end within a
    heartbeat, and are not opened again; another key of the same tenant goes on."""
    (tmp_path / "agents.py").write_text(AGENTS)
    ours, theirs = [
        json.loads((await tailrace("keys", "create", "--name", name, "--tenant", "acme", "--json")).out)
        for name in ("ours", "theirs")
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tailrace", "serve", "--app", "agents.py", "--port", "0",
        env=environment | {"TAILRACE_HEARTBEAT_SECONDS": "0.5"}, cwd=tmp_path, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    address = re.search(r"http://\S+", (await process.stdout.readline()).decode())
    assert address is not None
    headers = [{"Authorization": f"Bearer {key['key']}"} for key in (ours, theirs)]
    stream = f"{RUNS}/r/stream"
    async with (
        asyncio.timeout(2 * PATIENCE_SECONDS),
        httpx2.AsyncClient(base_url=address[0], timeout=PATIENCE_SECONDS) as http,
        AsyncExitStack() as on,
    ):
        started = await http.post(RUNS, json={"agent": "wait", "runId": "r"}, headers=headers[0])
        assert started.status_code == 201
        token = (await http.post(f"{RUNS}/r/stream-token", headers=headers[0])).json()["token"]
        opened = [
            await on.enter_async_context(http.stream("GET", stream, headers=headers[0])),
            await on.enter_async_context(http.stream("GET", stream, params={"token": token})),
            await on.enter_async_context(http.stream("GET", stream, headers=headers[1])),
        ]
        pieces = [answer.aiter_bytes() for answer in opened]
        for each in pieces:
            assert (await anext(each)).startswith(b"retry: ")
        assert (await tailrace("keys", "revoke", ours["id"])).code == 0
        for ended in pieces[:2]:
            assert b"".join([piece async for piece in ended]).split(b"\n")[-3].startswith(b"retry: ")
        assert (await http.get(stream, headers=headers[0])).status_code == 401
        assert (await http.get(stream, params={"token": token}, headers={"Last-Event-ID": "1"})).status_code == 401
        for _ in range(3):
            assert await anext(pieces[2])
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 0


async def test_with_keys_it_may_listen_everywhere_and_the_commands_show_theirs(
    tailrace: Tailrace, with_keys: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """`--host 0.0.0.0` and any Host; `runs --url` with the key of the setting or of a file; without it, 401."""
    (tmp_path / "agents.py").write_text(AGENTS)
    key = (await tailrace("keys", "create", "--name", "a", "--tenant", "acme")).out.strip()
    (tmp_path / "key").write_text(key + "\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tailrace", "serve", "--app", "agents.py", "--host", "0.0.0.0", "--port", "0",  # noqa: S104
        env=environment, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    address = re.search(r"http://0\.0\.0\.0:(\d+)", (await process.stdout.readline()).decode())
    assert address is not None
    url = f"http://127.0.0.1:{address[1]}"
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as http:
        host = {"Host": "tailrace.example", "Authorization": f"Bearer {key}"}
        assert (await http.get(RUNS, headers=host)).status_code == 200
    start = ("runs", "start", "count", "--input", '{"to": 1}', "--run-id")
    assert (await tailrace(*start, "one", "--watch", "--url", url, TAILRACE_API_KEY=key)).code == 0
    assert (await tailrace(*start, "two", "--watch", "--url", url, "--api-key-file", "key")).code == 0
    refused = await tailrace("runs", "list", "--url", url, TAILRACE_API_KEY=key[:-1] + "x")
    assert (refused.code, "401" in refused.err) == (FAILED, True)
    assert key[:40] not in refused.err + refused.out
    # Who has the database itself sees the runs of all tenants, and needs no key.
    listed = json.loads((await tailrace("runs", "list", "--json")).out)["runs"]
    assert {run["runId"] for run in listed} == {"one", "two"}
    assert {run["state"] for run in listed} == {"finished"}
    process.send_signal(signal.SIGTERM)
    _, err = await process.communicate()
    assert process.returncode == 0
    assert key not in err.decode()
