"""Browsers: other sites' pages may neither read nor act, and no answer can be made to do harm."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx2
import pytest
from fastapi import FastAPI

import tailrace
from tailrace.http.gate import SECURITY_HEADERS
from tailrace.settings import Settings
from tests.patience import PATIENCE_SECONDS
from tests.read_support import RUNS, Reading, reading, request, serving
from tests.security.conftest import Keys

PAGE = "https://app.example"
BODY = {"agent": "echo"}


@pytest.fixture
async def bare(settings: Callable[..., Settings]) -> AsyncIterator[Reading]:
    """A server without credentials that allows one origin."""
    async with reading(settings(cors_origins=f"{PAGE}, http://localhost:5173")) as made:
        await made.services.leases.record_agents(["echo"])
        yield made


@pytest.fixture
async def closed(settings: Callable[..., Settings]) -> AsyncIterator[Reading]:
    """A server as it comes: neither credentials nor origins."""
    async with reading(settings()) as made:
        await made.services.leases.record_agents(["echo"])
        yield made


async def test_every_answer_carries_the_security_headers(server: Reading, acme: str) -> None:
    """Good, refused and unknown alike; the stream keeps its own three as they are."""
    run = await server.run()
    await run.finish()
    await server.publish()
    signed = {"Authorization": f"Bearer {acme}"}
    async with httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as http:
        answers = [
            await http.get("/healthz"),
            await http.get("/openapi.json"),
            await http.get("/nowhere"),
            await http.get(RUNS),
            await http.get(RUNS, headers=signed),
            await http.post(RUNS, headers=signed, content=b"{"),
            await http.delete(RUNS, headers=signed),
            await http.get(f"{RUNS}?token={acme}"),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 401, 200, 422, 405, 400]
    for answer in answers:
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers.get_list(name) == [value]
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_the_stream_carries_them_beside_its_own(bare: Reading) -> None:
    """Also the origin that is allowed, for an EventSource is a CORS request."""
    await bare.run()
    await bare.publish()
    async with request(bare.port, f"{RUNS}/r/stream", headers={"Origin": PAGE}) as answer:
        assert answer.header("content-type") == "text/event-stream"
        assert answer.header("cache-control") == "no-cache, no-transform"
        assert answer.header("x-accel-buffering") == "no"
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("access-control-allow-origin") == PAGE
        await answer.upto(1)


async def test_a_preflight_is_answered_for_the_origins_that_are_named(bare: Reading) -> None:
    """Exactly those: neither a suffix, nor another scheme or port, nor null."""
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,idempotency-key"}
    others = ("https://evil.example", f"{PAGE}.evil.example", "http://app.example", f"{PAGE}:8443", "null", "", "*")
    async with httpx2.AsyncClient(base_url=bare.url, timeout=PATIENCE_SECONDS) as http:
        for origin in (PAGE, "http://localhost:5173"):
            good = await http.options(RUNS, headers={**ask, "Origin": origin})
            assert good.status_code == 204
            assert good.headers["access-control-allow-origin"] == origin
            assert {"authorization", "idempotency-key", "last-event-id", "content-type"} <= set(
                good.headers["access-control-allow-headers"].lower().split(", ")
            )
            assert "access-control-allow-credentials" not in good.headers
        for origin in others:
            refused = await http.options(RUNS, headers={**ask, "Origin": origin})
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers
            plain = await http.get(RUNS, headers={"Origin": origin})
            assert "access-control-allow-origin" not in plain.headers
            assert plain.headers["vary"] == "Origin"


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "{own}"}, True),
        ({"Origin": PAGE}, True),
        ({"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}, True),
    ],
)
async def test_without_credentials_other_sites_pages_may_not_act(
    bare: Reading, headers: dict[str, str], passes: bool
) -> None:
    """A simple POST needs no preflight, so it is the server that refuses it; nothing is written."""
    sent = {name: value.replace("{own}", bare.url) for name, value in headers.items()}
    async with httpx2.AsyncClient(base_url=bare.url, timeout=PATIENCE_SECONDS) as http:
        answer = await http.post(RUNS, json=BODY, headers=sent)
        assert answer.status_code == (201 if passes else 403)
        assert len((await http.get(RUNS, headers=sent)).json()["runs"]) == passes
        assert (await http.post(f"{RUNS}/none/cancel", headers=sent)).status_code == (404 if passes else 403)


async def test_with_credentials_it_is_the_key_that_counts(server: Reading, keys: Keys, acme: str) -> None:
    """A key is not sent by itself as a cookie is, so a page that has it was given it."""
    async with keys.client(server, acme) as http:
        sent = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        answer = await http.post(RUNS, json=BODY, headers=sent)
        assert answer.status_code == 201
        assert "access-control-allow-origin" not in answer.headers


async def test_a_mounted_app_leaves_the_host_to_the_application(settings: Callable[..., Settings]) -> None:
    """It answers under every name, and still refuses other sites' pages."""
    app = tailrace.App(settings())
    host = FastAPI(lifespan=app.lifespan)
    host.mount("/tailrace", app.asgi())

    def end_streams() -> None:
        app.services().hub.close()

    async with serving(host, on_close=end_streams) as port:
        await app.services().leases.record_agents(["echo"])
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}/tailrace", timeout=PATIENCE_SECONDS) as http:
            public = {"Host": "public.example"}
            own = {**public, "Origin": "https://public.example"}
            assert (await http.get(RUNS, headers=public)).status_code == 200
            assert (await http.post(RUNS, json=BODY, headers=own)).status_code == 201
            assert (await http.post(RUNS, json=BODY, headers={**public, "Origin": PAGE})).status_code == 403


async def test_cors_is_closed_unless_it_is_opened(closed: Reading) -> None:
    """No header at all, and no preflight passes."""
    ask = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    async with httpx2.AsyncClient(base_url=closed.url, timeout=PATIENCE_SECONDS) as http:
        for answer in (await http.get(RUNS, headers={"Origin": PAGE}), await http.options(RUNS, headers=ask)):
            assert not [name for name in answer.headers if name.startswith("access-control")]
