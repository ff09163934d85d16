"""A reader at 1 KB/s: it keeps its stream, costs what is stated, and disturbs nobody."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable

import pytest

from tailrace.bus.local_first import LocalFirst
from tailrace.settings import Settings
from tailrace.store.database import POOL_MAX, Database
from tests.hostile.clients import Watcher, resident_kib, stream_request, watchers
from tests.hostile.test_crowd import OPEN_KIB, RING_KIB, STALLED_KIB
from tests.patience import TRIES
from tests.read_support import HandWrittenRun, ServerProcess, publish_all

# What counts is how many bytes a reader takes within the write bound, so the rate may rise as the bound falls. One
# (``SLOW_SCALE=1``) is the reader at 1 KB/s under the default bound of 60 s, for more than two minutes.
SCALE = float(os.environ.get("SLOW_SCALE", "8"))
WRITE_SECONDS = 60 / SCALE
# Longer than twice the bound: no write of such a reader is ever overdue, neither the first that waits nor a later one.
SLOW_SECONDS = 130 / SCALE
BYTES_PER_SECOND = 1024 * SCALE
PAGE_KIB = 256
EVENTS, EVENT_BYTES, SLOW, WATCHING = 400, 10_000, 20, 5


class SlowReader:
    """Takes 1,024 bytes a second, times the scale, of a stream, over one connection, until told to hurry."""

    def __init__(self, port: int, run_id: str) -> None:
        self.parser = Watcher(run_id)
        self.taken = 0
        self.hurry = asyncio.Event()
        # For how long it has not read at most, between two of its reads.
        self.gap_seconds = 0.0
        self._port = port

    async def read_to(self, last: int) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            await loop.sock_connect(connection, ("127.0.0.1", self._port))
            await loop.sock_sendall(connection, stream_request(self.parser.run_id, 0))
            read_at = loop.time()
            while self.parser.position < last:
                hurrying = self.hurry.is_set()
                self.gap_seconds = max(self.gap_seconds, loop.time() - read_at)
                piece = await loop.sock_recv(connection, 1 << 16 if hurrying else int(BYTES_PER_SECOND / 4))
                read_at = loop.time()
                assert piece, f"the server cut the reader off at {self.parser.position}, after {self.taken} bytes"
                self.taken += len(piece)
                self.parser.data_received(piece)
                if not hurrying:
                    await asyncio.sleep(0.25)


@pytest.mark.skipif(sys.platform != "linux", reason="reads from /proc how much memory the server holds")
@pytest.mark.timeout(300)
async def test_readers_at_one_kilobyte_a_second_keep_their_streams_and_disturb_nobody(
    settings: Callable[..., Settings], database: Database, bus: LocalFirst
) -> None:
    """Twenty of them follow 4 MB at that rate; others have each event as it is published; the memory that the twenty
    cost is bounded by docs/adr/0015, not by what they have still to read.  Then they hurry: nothing was skipped, and
    none of them ever had to come again.

    A machine that stands still for long makes of them readers that do not read, whom the server may let go: such a
    trial is void.
    """
    for left in reversed(range(TRIES)):
        slow: list[SlowReader] = []
        try:
            await _trial(settings, database, bus, slow, str(left))
        except Exception:
            if not left or max((each.gap_seconds for each in slow), default=0.0) <= WRITE_SECONDS / 2:
                raise
        else:
            return


async def _trial(
    settings: Callable[..., Settings], database: Database, bus: LocalFirst, slow: list[SlowReader], trial: str
) -> None:
    with ServerProcess(settings(), TAILRACE_WRITE_SECONDS=str(WRITE_SECONDS)) as server:

        async def write_to(fast: list[Watcher], run: HandWrittenRun) -> None:
            for _ in range(EVENTS // 20):
                await run.append_many(20, {"text": "x" * EVENT_BYTES})
                await publish_all(database, bus)
                for watcher in fast:
                    await watcher.upto(run.last_seq)

        # The same without slow readers: what it takes is the server's own, and no price of theirs.
        earlier = await HandWrittenRun.start(database, f"warm{trial}")
        await publish_all(database, bus)
        warm = await watchers(server.port, earlier.id, [0] * WATCHING)
        await write_to(warm, earlier)
        before_kib = resident_kib(server.pid, "VmHWM")
        run = await HandWrittenRun.start(database, f"r{trial}")
        await publish_all(database, bus)
        fast = await watchers(server.port, run.id, [0] * WATCHING)
        slow += (SlowReader(server.port, run.id) for _ in range(SLOW))
        async with asyncio.TaskGroup() as reading:
            for each in slow:
                reading.create_task(each.read_to(EVENTS + 1))
            until = asyncio.get_running_loop().time() + SLOW_SECONDS
            await write_to(fast, run)
            await asyncio.sleep(max(0.0, until - asyncio.get_running_loop().time()))
            peak_kib = resident_kib(server.pid, "VmHWM")
            behind = [run.last_seq - each.parser.position for each in slow]
            for each in slow:
                each.hurry.set()
        assert min(behind) > EVENTS // 2, "they were slow"
        assert max(each.taken for each in slow) > EVENTS * EVENT_BYTES
        assert [each.parser.skipped for each in (*slow,)] == [[]] * SLOW
        assert [each.skipped for each in fast] == [[]] * WATCHING
        assert not any(each.lost.is_set() for each in fast)
        # The figures of docs/adr/0015; `pytest -s` shows them.
        print(f"\nKiB at the peak: without the slow {before_kib}, with them {peak_kib}")  # noqa: T201
        # Beside the readers: the ring of the other run may still be there, and no connection had read a page before.
        bound_kib = (SLOW + WATCHING) * OPEN_KIB + SLOW * STALLED_KIB + RING_KIB + POOL_MAX * PAGE_KIB
        assert peak_kib - before_kib < bound_kib
        for watcher in (*warm, *fast):
            assert watcher.transport is not None
            watcher.transport.abort()
