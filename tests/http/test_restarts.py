"""Streams through the stop, the death and the return of their server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tailrace.bus.local_first import LocalFirst
from tailrace.settings import Settings
from tailrace.store.database import Database
from tests.read_support import RUNS, HandWrittenRun, RawAnswer, ServerProcess, publish_all, request


@pytest.fixture
def server(settings: Callable[..., Settings]) -> Iterator[ServerProcess]:
    with ServerProcess(settings()) as started:
        yield started


async def test_on_sigterm_open_streams_end_with_retry_and_the_process_ends(
    server: ServerProcess, database: Database, bus: LocalFirst
) -> None:
    """A server that waited for its open streams would be killed instead; each is told when to come back."""
    await HandWrittenRun.start(database, "r")
    await publish_all(database, bus)
    async with request(server.port, f"{RUNS}/r/stream") as one, request(server.port, f"{RUNS}/r/stream") as other:
        for answer in (one, other):
            await answer.upto(1)
        assert await asyncio.to_thread(server.stop) == 0
        for answer in (one, other):
            await _ended_with_retry(answer)


async def test_a_reader_that_is_stalled_does_not_hold_up_the_end_of_the_process(
    server: ServerProcess, database: Database, bus: LocalFirst
) -> None:
    """Its socket is full when SIGTERM comes, so it cannot be told anything; the process ends all the same."""
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(400, {"text": "x" * 60_000})
    await publish_all(database, bus)
    async with request(server.port, f"{RUNS}/r/stream", receive_buffer=2048) as stalled:
        assert stalled.status == 200
        assert await asyncio.to_thread(server.stop) == 0


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_client_resumes_on_the_new_server_and_has_each_event_once(
    server: ServerProcess, database: Database, bus: LocalFirst, how: str
) -> None:
    """Asked to end, or killed: what was published before, meanwhile and after arrives exactly once, in order."""
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(20)
    await publish_all(database, bus)
    seen: list[int] = []
    async with request(server.port, f"{RUNS}/r/stream") as before:
        seen += await before.upto(21)
        await asyncio.to_thread(getattr(server, how))
        if how == "stop":
            await _ended_with_retry(before)
    await run.append_many(10)
    await publish_all(database, bus)
    await asyncio.to_thread(server.start)
    async with request(server.port, f"{RUNS}/r/stream", headers={"Last-Event-ID": str(seen[-1])}) as after:
        seen += await after.upto(31, position=21)
        await run.append_many(10)
        await run.finish()
        await publish_all(database, bus)
        seen += await after.seqs()
    assert seen == list(range(1, 43))
    async with request(server.port, f"{RUNS}/r/stream", headers={"Last-Event-ID": "42"}) as done:
        assert done.status == 204


async def _ended_with_retry(answer: RawAnswer) -> None:
    rest = await answer.rest()
    assert rest.startswith(b"retry: ")
    assert rest.endswith(b"\n\n")
    assert rest.removeprefix(b"retry: ").strip().isdigit()
