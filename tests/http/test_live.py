"""Streams that have left ASGI, on our own server: what a client sees is what it saw, and the server holds less."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tailrace.bus.local_first import LocalFirst
from tailrace.http import live
from tailrace.http.connection import WRITE_BUFFER_BYTES, BoundedHttp
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.telemetry import Happening, StreamClosed, StreamOpened
from tests.hostile.served import HEALTH
from tests.patience import PATIENCE_SECONDS
from tests.read_support import (
    RUNS,
    HandWrittenRun,
    RawAnswer,
    Reading,
    ServerProcess,
    custom,
    publish_all,
    reading,
    request,
    until,
)

HEADS = {
    "plain": "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "resumed": "GET {path} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 3\r\n\r\n",
    "close": "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "http-1.0": "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n",
    "head": "HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "origin": "GET {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example\r\nConnection: close\r\n\r\n",
    "body": "GET {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody",
}


@pytest.fixture
async def server(settings: Callable[..., Settings]) -> AsyncIterator[Reading]:
    async with reading(settings(heartbeat_seconds=30, cors_origins=("https://app.example",))) as made:
        yield made


async def answered(port: int, *pieces: bytes, closes: bool = False) -> bytes:
    """Send the pieces and return what comes: to the end of the connection, or of the first chunked body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await (reader.read() if closes else reader.readuntil(b"\r\n0\r\n\r\n"))
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("head", HEADS.values(), ids=list(HEADS))
async def test_both_ways_answer_the_same_byte_for_byte(
    server: Reading, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    """Status, headers and their order, chunks, end."""
    run = await server.run()
    await run.append_many(5)
    await run.finish()
    await server.publish()
    request = head.format(path=f"{RUNS}/r/stream").encode()
    closes = "keep-alive" not in head and ("1.0" in head or "close" in head)
    taken: list[Any] = []
    take = live.LiveStreams.take

    def counting(*args: Any) -> None:
        taken.append(args)
        take(*args)

    monkeypatch.setattr(live.LiveStreams, "take", counting)
    without_asgi = await answered(server.port, request, closes=closes)
    assert len(taken) == (not head.startswith("HEAD"))
    monkeypatch.setattr(BoundedHttp, "_detach", lambda _: None)
    by_asgi = await answered(server.port, request, closes=closes)
    assert len(taken) == (not head.startswith("HEAD"))
    date = re.compile(rb"date: [^\r]*\r\n")
    assert date.sub(b"", without_asgi) == date.sub(b"", by_asgi)
    assert date.search(without_asgi)


async def test_a_stream_holds_no_task(server: Reading) -> None:
    """Idle or fed, a hundred streams are a hundred connections and nothing that waits."""
    run = await server.run()
    await server.publish()
    before = len(asyncio.all_tasks())
    async with AsyncExitStack() as stack:
        answers = [await stack.enter_async_context(server.stream()) for _ in range(100)]
        for answer in answers:
            await answer.upto(1)
        await until(lambda: len(asyncio.all_tasks()) <= before, "their requests are done")
        await run.append_many(1)
        await server.publish()
        for answer in answers:
            await answer.upto(2, 1)
        await until(lambda: len(asyncio.all_tasks()) <= before, "what fed them is done")
        assert server.services.streams_open == len(server.services.live.open) == 100


async def test_another_request_follows_on_the_same_connection(server: Reading) -> None:
    """Sent with the stream's own, while it is open, or after its end."""
    run = await server.run()
    await server.publish()
    stream = f"GET {RUNS}/r/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    for before, meanwhile in ((HEALTH, b""), (b"", HEALTH), (b"", HEALTH * 3)):
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(stream + before)
            await reader.readuntil(b'"RunStarted","v":1,"source":"outbox"}\n\n\r\n')
            writer.write(meanwhile)
            await writer.drain()
            server.services.hub.close()
            await reader.readuntil(b"\r\n0\r\n\r\n")
            for _ in range((before + meanwhile).count(b"GET")):
                assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
            writer.write(HEALTH)
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
            server.services.hub.closing = False
        writer.transport.abort()
    assert run.last_seq == 1


async def test_a_client_that_sends_without_end_while_it_streams_is_cut(server: Reading) -> None:
    """What it sends ahead is bounded, as its requests are."""
    await server.run()
    await server.publish()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"GET {RUNS}/r/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await until(lambda: len(server.services.live.open) == 1, "the stream is open")
    writer.write(b"x" * (live.RECEIVED_MAX_BYTES + 1))
    await until(lambda: server.services.streams_open == 0, "it was cut")
    writer.transport.abort()


async def test_what_is_told_of_a_stream_is_what_was_told(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened and closed once each, with the same positions and reasons, whichever way it goes."""
    told: dict[bool, list[Happening]] = {}
    for leaves in (True, False):
        if not leaves:
            monkeypatch.setattr(BoundedHttp, "_detach", lambda _: None)
        async with reading(settings(heartbeat_seconds=0.1, write_seconds=0.3)) as server:
            told[leaves] = await _told_of_three(server, f"r{leaves}")
    assert told[True] == told[False]
    reasons = [each.reason for each in told[True] if isinstance(each, StreamClosed)]
    assert reasons == ["client-gone", "terminal", "shutdown"]


async def _told_of_three(server: Reading, run_id: str) -> list[Happening]:
    found: list[Happening] = []

    def keep(happening: Happening) -> None:
        if isinstance(happening, StreamOpened | StreamClosed):
            found.append(happening)

    telemetry = server.services.telemetry
    telemetry._exporters = (*telemetry._exporters, keep)
    run = await server.run(run_id)
    await run.append_many(2)
    await server.publish()
    async with server.stream(run_id) as answer:
        await answer.upto(3)
    await until(lambda: server.services.streams_open == 0, "it is gone")
    other = await server.run(f"{run_id}-other")
    await server.publish()
    async with server.stream(run_id, last_event_id="1") as answer:
        await answer.upto(3, 1)
        await run.finish()
        await server.publish()
        assert await answer.seqs() == [4]
    async with server.stream(other.id) as answer:
        await answer.upto(1)
        server.services.hub.close()
        await answer.rest()
    await until(lambda: server.services.streams_open == 0, "all are closed")
    return [_anonymous(each, run_id) for each in found]


def _anonymous(happening: Happening, run_id: str) -> Happening:
    assert isinstance(happening, StreamOpened | StreamClosed)
    fields = {name: getattr(happening, name) for name in happening.__slots__}
    return type(happening)(**fields | {"run_id": happening.run_id.replace(run_id, "r")})


async def test_one_sweep_pings_all_and_ends_the_old(settings: Callable[..., Settings]) -> None:
    """Pings while it is silent, and the end at its age, without a timer of its own."""
    async with reading(settings(heartbeat_seconds=0.1)) as server:
        await server.run()
        await server.publish()
        async with AsyncExitStack() as stack:
            answers = [await stack.enter_async_context(server.stream(last_event_id="1")) for _ in range(20)]
            for answer in answers:
                assert [await answer.block() for _ in range(3)] == [b"retry: 1000\n\n", b": ping\n\n", b": ping\n\n"]
            for stream in server.services.live.open:
                stream._age_at = 0.0
            for answer in answers:
                *pings, last, nothing = (await answer.rest()).split(b"\n\n")
                assert set(pings) <= {b": ping"}
                assert last.startswith(b"retry: ")
                assert nothing == b""


async def test_an_unforeseen_error_while_a_stream_catches_up_is_told_and_cuts_it(
    server: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not leave a stream open that nobody feeds."""
    run = await server.run()
    await run.append_many(3)
    await server.publish()

    async def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("by test")

    monkeypatch.setattr(server.services.events, "page", broken)
    told: list[Happening] = []
    telemetry = server.services.telemetry
    telemetry._exporters = (told.append,)
    async with server.stream() as answer:
        assert await _blocks_until_cut(answer) == [b"retry: 1000\n\n"]
    await until(lambda: server.services.streams_open == 0, "it is closed")
    assert [type(each).__name__ for each in told] == ["StreamOpened", "RequestFailed", "StreamClosed"]


async def _blocks_until_cut(answer: RawAnswer) -> list[bytes]:
    found = []
    while (block := await answer.block()) is not None:
        found.append(block)
    return found


async def test_a_server_that_is_stopped_does_not_wait_for_a_reader_that_takes_nothing(
    settings: Callable[..., Settings], database: Database, bus: LocalFirst
) -> None:
    """Its stream has no task that uvicorn could cancel: what is left after the grace period is cut."""
    run = await HandWrittenRun.start(database, "r")
    await run.append(*(custom({"text": "x" * 60_000}) for _ in range(100)))
    await publish_all(database, bus)
    with ServerProcess(settings()) as process:
        async with request(process.port, f"{RUNS}/r/stream", receive_buffer=2048) as stalled:
            await stalled.upto(1)
            assert await asyncio.to_thread(process.stop) == 0


async def test_a_reader_that_is_slow_at_the_end_is_ended(server: Reading) -> None:
    """The terminal event is in a write that fills its connection; once it has taken that, the answer is complete."""
    run = await server.run()
    await server.publish()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2**10)
    writer.write(HEADS["plain"].format(path=f"{RUNS}/r/stream").encode())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await reader.readuntil(b"id: 1\n")
        (stream,) = server.services.live.open
        while stream.transport.get_write_buffer_size() == 0:
            await run.append(custom({"x": "x" * 10_000}))
            await server.publish()
        await run.append_many(4, {"x": "x" * 12_000})
        await run.finish()
        await server.publish()
        assert stream.transport.get_write_buffer_size() > WRITE_BUFFER_BYTES
        received = b""
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += await reader.read(2**16)
    assert received.count(b"RunFinished") == 1
    writer.close()
