"""A crowd at one server: 1,000 that watch, 300 that stop reading, 200 that vanish, and one that hardly reads."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator

import httpx2
import pytest

from tailrace.bus.local_first import LocalFirst
from tailrace.settings import Settings
from tailrace.store.database import Database
from tests.hostile.clients import (
    Watcher,
    allow_files,
    may_vanish,
    resident_kib,
    silent_sockets,
    stream_request,
    until_true,
    vanish,
    watchers,
)
from tests.patience import PATIENCE_SECONDS
from tests.read_support import HandWrittenRun, ServerProcess, publish_all

WATCHING, STALLED, VANISHED = 1000, 300, 200
EVENT_BYTES, EVENTS, SLOWLY = 4000, 100, 20
# So many at a time that what a watcher has not yet read fits into its window, however long this process is held up.
BATCH = 5
WRITE_SECONDS = 6
# What docs/adr/0015 states for a stream whose reader stalls: the transport's buffer, a chunk over it, and what it may
# hold of the ring; and for any stream the objects that make it up.
STALLED_KIB, OPEN_KIB = 128, 16
RING_KIB = 3 * 1024

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not may_vanish(),
    reason="drops packets by Linux's means, which this kernel leaves to root: run the tests as root",
)


@pytest.fixture
def server(settings: Callable[..., Settings]) -> Iterator[ServerProcess]:
    allow_files(4000)
    with ServerProcess(
        settings(), TAILRACE_WRITE_SECONDS=str(WRITE_SECONDS), TAILRACE_HEARTBEAT_SECONDS="1"
    ) as started:
        yield started


async def test_those_that_misbehave_are_let_go_and_the_others_notice_nothing(
    server: ServerProcess, database: Database, bus: LocalFirst
) -> None:
    """Every watcher has every event on the connection it began with, the server's memory stays within what is stated,
    and those that stalled or come back all at once resume without a gap; SIGTERM then ends all of it.
    """
    run = await HandWrittenRun.start(database, "r")
    await publish_all(database, bus)
    idle_kib = resident_kib(server.pid)
    good = await watchers(server.port, "r", [0] * WATCHING)
    await _upto(good, 1)
    stalled = await silent_sockets(server.port, "r", STALLED)
    gone = await silent_sockets(server.port, "r", VANISHED)
    await until_true(lambda: _is_open(server, WATCHING + STALLED + VANISHED), "all streams are open")
    open_kib = resident_kib(server.pid)
    for each in gone:
        vanish(each)
    slow = asyncio.create_task(_read_slowly(server.port, "r", SLOWLY))
    for _ in range(EVENTS // BATCH):
        await run.append_many(BATCH, {"text": "x" * EVENT_BYTES})
        await publish_all(database, bus)
        await _upto(good, run.last_seq)
    await until_true(lambda: _is_open(server, WATCHING), "those that stalled or vanished were let go")
    peak_kib = resident_kib(server.pid, "VmHWM")
    bound_kib = (WATCHING + STALLED + VANISHED) * OPEN_KIB + (STALLED + VANISHED) * STALLED_KIB + RING_KIB
    # The figures of docs/adr/0015; `pytest -s` shows them.
    print(f"\nKiB: idle {idle_kib}, open {open_kib}, peak {peak_kib}, after {resident_kib(server.pid)}")  # noqa: T201
    assert peak_kib - idle_kib < bound_kib
    assert await slow == list(range(1, SLOWLY + 1))

    # The storm: all that watch, and all that stalled, come back in one moment.
    positions = [each.position for each in good] + [await _position_of(each) for each in stalled]
    for watcher in good:
        assert watcher.transport is not None
        watcher.transport.abort()
    back = await watchers(server.port, "r", positions)
    await run.append_many(10)
    await publish_all(database, bus)
    await _upto(back, run.last_seq)
    assert not [each.skipped for each in (*good, *back) if each.skipped]
    assert await asyncio.to_thread(server.stop) == 0
    for watcher in back:
        await watcher.lost.wait()
    for dead in (*stalled, *gone):
        dead.close()


async def _upto(many: list[Watcher], seq: int) -> None:
    async with asyncio.timeout(2 * PATIENCE_SECONDS):
        for each in many:
            await each.upto(seq)


async def _is_open(server: ServerProcess, count: int) -> bool:
    async with httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as http:
        text = (await http.get(f"{server.url}/metrics")).text
    (active,) = [line.split()[1] for line in text.split("\n") if line.startswith("tailrace_streams_active ")]
    return int(float(active)) in (count, count + 1)  # The slow reader comes and goes.


async def _position_of(stalled: socket.socket) -> int:
    """Read what the kernel still holds for a reader whose stream was cut, and return the last seq it can act upon."""
    parser = Watcher("r")
    loop = asyncio.get_running_loop()
    try:
        while piece := await loop.sock_recv(stalled, 1 << 16):
            parser.data_received(piece)
    except ConnectionError:
        pass
    assert not parser.skipped
    return parser.position


async def _read_slowly(port: int, run_id: str, last: int) -> list[int]:
    """Read 1 KB a 60th of the write bound, which is 1 KB/s at its default; come back whenever cut."""
    loop = asyncio.get_running_loop()
    seqs: list[int] = []
    while len(seqs) < last:
        reader = Watcher(run_id, len(seqs))
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            await loop.sock_connect(connection, ("127.0.0.1", port))
            await loop.sock_sendall(connection, stream_request(run_id, len(seqs)))
            try:
                while len(seqs) < last and (piece := await loop.sock_recv(connection, 1024)):
                    reader.data_received(piece)
                    seqs += range(len(seqs) + 1, reader.position + 1)
                    await asyncio.sleep(WRITE_SECONDS / 60)
            except ConnectionError:
                pass
        assert not reader.skipped
    return seqs[:last]
