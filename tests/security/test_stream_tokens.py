"""Stream tokens: one run's stream, for a while, in the name of a key."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx2
import pytest

from tailrace.access import keyfile, tokens
from tailrace.access.keyfile import KeyFile
from tailrace.access.tokens import StreamClaims
from tailrace.settings import Settings
from tests.patience import PATIENCE_SECONDS
from tests.read_support import RUNS, Reading, reading, request
from tests.security.conftest import Keys


@pytest.fixture
async def token(server: Reading, keys: Keys, acme: str) -> str:
    """For acme's run r, which has one published event; acme's run other is there too."""
    async with keys.client(server, acme) as http:
        for run_id in ("r", "other"):
            await http.post(RUNS, json={"agent": "echo", "runId": run_id})
        await server.publish()
        asked_at = time.time()
        answer = await http.post(f"{RUNS}/r/stream-token")
        answered_at = time.time()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert set(answer.json()) == {"token", "expiresAt"}
    expires_at = datetime.fromisoformat(answer.json()["expiresAt"]).timestamp()
    assert asked_at + 59 <= expires_at <= answered_at + 61
    found: str = answer.json()["token"]
    return found


async def status(server: Reading, path: str, last_event_id: str | None = None) -> int:
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    async with request(server.port, f"{RUNS}{path}", headers=headers) as answer:
        return answer.status


def aged(server: Reading, age_seconds: float, key: str, *, run_id: str = "r", tenant: str = "acme") -> str:
    """A token as the server made it some time ago."""
    signing = server.services.credentials._signing()
    claims = StreamClaims(run_id, tenant, key.split("_")[1], time.time() - age_seconds)
    return tokens.sign(claims, *signing)


async def test_a_token_opens_its_run_s_stream_and_nothing_else(
    server: Reading, token: str, keys: Keys, globex: str
) -> None:
    """Neither another run, there or not, nor another call, nor as a key."""
    async with request(server.port, f"{RUNS}/r/stream?token={token}") as answer:
        assert (answer.status, answer.header("content-type")) == (200, "text/event-stream")
        await answer.upto(1)
    for path in ("/other/stream", "/nobody/stream", "/r", "/r/events", ""):
        assert await status(server, f"{path}?token={token}") == 401
    async with httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as http:
        for path in ("/r/cancel", "/r/stream-token"):
            assert (await http.post(f"{RUNS}{path}?token={token}")).status_code == 401
        assert (await http.get(f"{RUNS}/r", headers={"Authorization": f"Bearer {token}"})).status_code == 401
    # A key that is shown wins, so a token cannot lend it more.
    async with keys.client(server, globex) as theirs:
        assert (await theirs.get(f"{RUNS}/r/stream?token={token}")).status_code == 404


def forged(token: str) -> list[str]:
    """Tokens that were not made by us, as close to one as can be."""
    header, body, signature = token.split(".")

    def coded(document: Any) -> str:
        return urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")

    claims = json.loads(urlsafe_b64decode(body + "=="))
    kid = json.loads(urlsafe_b64decode(header + "=="))["kid"]
    return [
        "", "x", "a.b.c", "..", "é", "x" * 5000, "\x00", token + "x", token[:-2], f"{header}.{body}.",
        f"{header}.{body}",
        f"{coded({'alg': 'none', 'kid': kid})}.{body}.",
        f"{coded({'alg': 'none'})}.{body}.{signature}",
        f"{coded({'alg': 'HS512', 'kid': kid})}.{body}.{signature}",
        f"{coded({'alg': 'HS256'})}.{body}.{signature}",
        f"{coded({'alg': 'HS256', 'kid': 'other'})}.{body}.{signature}",
        f"{coded({'alg': 'HS256', 'kid': ['x']})}.{body}.{signature}",
        f"{coded([])}.{body}.{signature}",
        f"{header}.{coded({**claims, 'sub': 'other'})}.{signature}",
        f"{header}.{coded([[]])}.{signature}",
    ]  # fmt: skip


async def test_a_token_that_we_did_not_make_opens_nothing(server: Reading, token: str) -> None:
    """Every forgery is answered alike, and as an unknown run's."""
    answers = set()
    async with httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as http:
        for made in forged(token):
            for run_id in ("r", "nobody"):
                answer = await http.get(f"{RUNS}/{run_id}/stream", params={"token": made})
                answers.add((answer.status_code, answer.content))
        answers.add(((twice := await http.get(f"{RUNS}/r/stream?token={token}&token={token}")).status_code, b""))
        assert twice.status_code == 401
    assert {status for status, _ in answers} == {401}
    assert len(answers) == 2


async def test_a_token_opens_for_seconds_and_resumes_for_longer(server: Reading, token: str, acme: str) -> None:
    """EventSource re-sends its URL: with the position it has, it is let in again, up to a bound."""
    del token
    for _ in range(20):
        before = time.monotonic()
        answered = await status(server, f"/r/stream?token={aged(server, 59, acme)}")
        if time.monotonic() - before < 1:
            break  # Otherwise it may have been too old by the time it was looked at.
    else:
        pytest.fail("no answer came within a second")
    assert answered == 200
    old, past = aged(server, 70, acme), aged(server, 3700, acme)
    assert await status(server, f"/r/stream?token={old}") == 401
    assert await status(server, f"/r/stream?token={old}", "") == 401
    assert await status(server, f"/r/stream?token={old}", "1") == 200
    assert await status(server, f"/r/stream?token={past}", "1") == 401
    assert await status(server, f"/r/stream?token={aged(server, -60, acme)}") == 401
    assert await status(server, f"/r/stream?token={aged(server, 0, acme, tenant='globex')}") == 401


async def test_a_new_signing_key_leaves_the_tokens_of_the_old_one_until_they_are_past(
    server: Reading, token: str, keys: Keys, acme: str
) -> None:
    """Rotation disturbs nobody; dropping the old key ends its tokens at once."""

    def rotate(found: KeyFile) -> tuple[KeyFile, None]:
        retired = found.signing[0].model_copy(update={"retired_at": keyfile.now()})
        return found.model_copy(update={"signing": (keyfile.new_signing_key(), retired)}), None

    def drop(found: KeyFile) -> tuple[KeyFile, None]:
        return found.model_copy(update={"signing": found.signing[:1]}), None

    old = server.services.credentials._signing()
    for change, expected in ((rotate, 200), (drop, 401)):
        keyfile.change(keys.path, change)
        server.services.credentials._look_at = 0  # type: ignore[attr-defined]
        assert await status(server, f"/r/stream?token={token}") == expected
    assert server.services.credentials._signing() != old
    assert await status(server, f"/r/stream?token={aged(server, 0, acme)}") == 200


async def test_without_credentials_a_page_that_uses_tokens_works_the_same(settings: Callable[..., Settings]) -> None:
    """The endpoint answers, for runs that are there, and the stream takes any token."""
    async with reading(settings()) as server, httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as http:
        await server.run()
        await server.publish()
        made = (await http.post(f"{RUNS}/r/stream-token")).json()
        async with request(server.port, f"{RUNS}/r/stream?token={made['token']}") as answer:
            await answer.upto(1)
        assert await status(server, "/r/stream?token=any") == 200
        assert (await http.post(f"{RUNS}/nobody/stream-token")).status_code == 404
