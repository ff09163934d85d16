"""Connections whose clients send too much, too little, or nothing, and what becomes of them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

import tailrace
from tailrace.http import connection
from tailrace.http.connection import HEAD_MAX_BYTES, PIPELINE_MAX, URL_MAX_BYTES, Limits
from tailrace.settings import Settings
from tests.hostile.served import API, HEALTH, LIMITS, PATIENT, Server, served
from tests.patience import PATIENCE_SECONDS
from tests.read_support import RUNS, HandWrittenRun, custom, publish_all

START = f"POST {RUNS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server whose App is not started: what comes before it does not need it."""
    async with served(tailrace.App()) as made:
        yield made


@pytest.fixture
async def hasty() -> AsyncIterator[Server]:
    """The same with bounds that a test can wait for."""
    async with served(tailrace.App(), LIMITS) as made:
        yield made


@pytest.fixture
async def api(settings: Callable[..., Settings]) -> AsyncIterator[Server]:
    async with _serving(settings, PATIENT) as made:
        yield made


@pytest.fixture
async def hasty_api(settings: Callable[..., Settings]) -> AsyncIterator[Server]:
    async with _serving(settings, LIMITS) as made:
        yield made


@asynccontextmanager
async def _serving(settings: Callable[..., Settings], limits: Limits) -> AsyncIterator[Server]:
    app = tailrace.App(settings(request_seconds=limits.request_seconds, write_seconds=limits.write_seconds))
    async with app.running(API), served(app, limits) as made:
        await app.services().leases.record_agents(["echo"])
        yield made
        assert app.services().streams_open == 0


def is_problem(answer: bytes, status: int) -> dict[str, Any]:
    """Check that an answer is one problem document that ends its connection, and return it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0].startswith(b"http/1.1 %d " % status), answer[:300]
    assert b"content-type: application/problem+json" in lines
    assert b"connection: close" in lines
    document: dict[str, Any] = json.loads(body)
    assert document["status"] == status
    return document


# -- heads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [b"GET", b"GET /healthz HTTP/1.1\r\n", HEALTH[:-2], HEALTH[:-2] + b"X: " + b"x" * 5000, b"\r\n"],
    ids=["method", "line", "headers", "header", "blank-line"],
)
async def test_a_head_that_does_not_come_to_its_end_is_answered_408(hasty: Server, head: bytes) -> None:
    """And its connection closed, whether the first request or a later one."""
    is_problem(await hasty.says(head), 408)
    async with hasty.connect() as (reader, writer), asyncio.timeout(PATIENCE_SECONDS):
        writer.write(HEALTH)
        await reader.readuntil(b"}")
        writer.write(head)
        is_problem(await reader.read(), 408)
    assert await hasty.is_healthy()


async def test_a_head_that_drips_is_bounded_as_a_whole(hasty: Server) -> None:
    """A byte now and then starts no clock anew."""
    async with hasty.connect() as (reader, writer), asyncio.timeout(PATIENCE_SECONDS):
        answer = asyncio.create_task(reader.read())
        for byte in HEALTH[:-1] * 1000:
            if answer.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        is_problem(await answer, 408)


async def test_a_connection_that_says_nothing_is_closed(hasty: Server) -> None:
    """Without a word, as there was none to answer."""
    assert await hasty.says() == b""


async def test_a_request_line_that_is_too_long_is_answered_414(server: Server) -> None:
    """Whether its end has come or not; at the bound it is served."""
    for end in (b"", b" HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        is_problem(await server.says(b"GET /" + b"x" * URL_MAX_BYTES + end), 414)
    fits = b"GET /healthz?" + b"x" * (URL_MAX_BYTES - len(b"/healthz?"))
    answer = await server.says(fits + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("many", [False, True])
async def test_headers_that_are_too_large_are_answered_431(server: Server, many: bool) -> None:
    """In one header or in many, complete or not; at the bound they are served."""
    line = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    headers = b"x: y\r\n" * HEAD_MAX_BYTES if many else b"X: " + b"x" * HEAD_MAX_BYTES + b"\r\n"
    is_problem(await server.says(line + headers), 431)
    is_problem(await server.says(line + headers[:-2], b"\r\n\r\n"), 431)
    fits = line + b"X: " + b"x" * (HEAD_MAX_BYTES - 100) + b"\r\nConnection: close\r\n\r\n"
    assert (await server.says(fits)).startswith(b"HTTP/1.1 200 ")


async def test_a_head_without_end_is_cut_while_it_comes(server: Server) -> None:
    """Twenty megabytes are neither kept nor awaited; the client may only see that it was cut off."""
    answer = await server.says(HEALTH[:-2] + b"X: ", *[b"x" * (1 << 20)] * 20)
    assert answer == b"" or is_problem(answer, 431)
    assert await server.is_healthy()


async def test_what_is_not_http_is_answered_400(server: Server) -> None:
    """TLS, nonsense, two lengths, a length and chunks, two hosts, a bare line feed smuggled into a header."""
    line = b"POST " + RUNS.encode() + b" HTTP/1.1\r\nHost: localhost\r\n"
    for request in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        line + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        line + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        line + b"Content-Length: -1\r\n\r\n",
        line + b"Content-Length: 1e3\r\n\r\n",
        line + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
        line + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        line + b"Host: other\r\n\r\n",
        line + b"X: a\x00b\r\n\r\n",
        line + b"X : a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        is_problem(await server.says(request), 400)
    assert await server.is_healthy()


async def test_requests_sent_ahead_are_answered_in_turn_up_to_a_bound(server: Server) -> None:
    """A thousand of them in one packet must not become a thousand requests in memory."""
    async with server.connect() as (reader, writer), asyncio.timeout(PATIENCE_SECONDS):
        writer.write(HEALTH * (PIPELINE_MAX + 1))
        for _ in range(PIPELINE_MAX + 1):
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
    assert (await server.says(HEALTH * 1000)).count(b"HTTP/1.1 200 ") <= PIPELINE_MAX
    assert await server.is_healthy()


# -- bodies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"Content-Length: 50\r\n\r\n", b'Content-Length: 50\r\n\r\n{"agent"', b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"],
    ids=["none", "half", "chunk"],
)
async def test_a_body_that_does_not_come_is_answered_408(hasty_api: Server, body: bytes) -> None:
    """Within the same bound as a head."""
    is_problem(await hasty_api.says(START + body), 408)
    assert await hasty_api.is_healthy()


async def test_a_body_that_nobody_waits_for_does_not_keep_its_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer comes without it, and what was promised does not come: cut off after a while, however it drips."""
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.3)
    async with server.connect() as (reader, writer), asyncio.timeout(PATIENCE_SECONDS):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
        rest = asyncio.create_task(reader.read())
        while not rest.done():
            writer.write(b"x")
            await asyncio.sleep(0.1)
        assert await asyncio.gather(rest, return_exceptions=True)


async def test_a_client_that_leaves_in_the_midst_of_a_body_is_no_error(
    api: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """It writes nothing and logs nothing: clients leave."""
    async with api.connect() as (_, writer):
        writer.write(START + b'Content-Length: 50\r\n\r\n{"agent"')
        await writer.drain()
        await _until_there_are(api, 1)
    await _until_there_are(api, 0)
    assert await api.is_healthy()
    assert capsys.readouterr() == ("", "")


# -- connections -------------------------------------------------------------------------------------------------


async def test_connections_over_the_bound_are_closed_at_once(server: Server) -> None:
    """And as soon as one ends, the next is served."""
    held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(50)]
    await _until_there_are(server, 50)
    assert await server.says(HEALTH) == b""
    held[0][1].transport.abort()
    await _until_there_are(server, 49)
    assert await server.is_healthy()
    for _, writer in held:
        writer.transport.abort()


async def test_streams_count_as_connections(api: Server) -> None:
    """They have left uvicorn's protocol, and stand among the connections all the same, as one each."""
    services = api.app.services()
    await HandWrittenRun.start(services.database, "r")
    await publish_all(services.database, services.bus)
    async with AsyncExitStack() as stack:
        for _ in range(50):
            reader, writer = await stack.enter_async_context(api.connect())
            writer.write(f"GET {RUNS}/r/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await reader.readuntil(b"id: 1\n")
        assert len(services.live.open) == len(api.connections) == 50
        assert await api.says(HEALTH) == b""
    await _until_there_are(api, 0)
    assert services.streams_open == 0
    assert await api.is_healthy()


async def test_a_reader_that_takes_nothing_loses_its_connection_and_what_it_held(hasty_api: Server) -> None:
    """Of a stream and of a plain answer: the connection is aborted, not closed behind what is still unsent."""
    services = hasty_api.app.services()
    run = await HandWrittenRun.start(services.database, "r")
    await run.append(*(custom({"text": "x" * 60_000}) for _ in range(100)))
    await publish_all(services.database, services.bus)
    for path in ("stream", "events?limit=1000"):
        with await _connect_small(hasty_api.port) as stalled:
            request = f"GET {RUNS}/r/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            await asyncio.get_running_loop().sock_sendall(stalled, request)
            await _until_there_are(hasty_api, 1)
            (transport,) = [each.transport for each in hasty_api.connections]
            await _until_there_are(hasty_api, 0)
            assert transport.get_write_buffer_size() == 0
            assert services.streams_open == 0


async def _connect_small(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    made.setblocking(False)
    await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
    return made


async def _until_there_are(server: Server, count: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(server.connections) != count:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.005)
