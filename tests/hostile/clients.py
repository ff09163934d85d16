"""Clients by the hundred, well-behaved and not: small enough that one test process can hold all of them."""

from __future__ import annotations

import asyncio
import ctypes
import re
import resource
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE_SECONDS
from tests.read_support import RUNS

_ID = re.compile(rb"^id: ([0-9]+)$", re.MULTILINE)
_SO_ATTACH_FILTER = 26
# How many connect at the same time: the listener's backlog is 2,048, and the kernel caps it (somaxconn).
AT_ONCE = 200


class Watcher(asyncio.Protocol):
    """Reads a stream as it comes and keeps the seqs; ``lost`` is set when the connection ends."""

    def __init__(self, run_id: str, position: int = 0) -> None:
        self.run_id = run_id
        self.position = position
        self.skipped: list[tuple[int, int]] = []
        self.lost = asyncio.Event()
        self.transport: asyncio.Transport | None = None
        self._rest = b""
        self._chunk_left = 0
        self._headed = False
        self._text = b""
        self.moved = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(stream_request(self.run_id, self.position))

    def data_received(self, data: bytes) -> None:
        self._text += self._unchunked(data)
        blocks, separator, self._text = self._text.rpartition(b"\n\n")
        if not separator:
            self._text = blocks + self._text
            return
        for found in _ID.finditer(blocks):
            seq = int(found[1])
            if seq != self.position + 1:
                self.skipped.append((self.position, seq))
            self.position = seq
        self.moved.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self.moved.set()

    async def upto(self, seq: int) -> None:
        """Wait until ``seq`` has come."""
        while self.position < seq:
            assert not self.lost.is_set(), f"the stream was lost at {self.position}, {seq} was due"
            self.moved.clear()
            await self.moved.wait()

    def _unchunked(self, data: bytes) -> bytes:
        data = self._rest + data
        self._rest = b""
        if not self._headed:
            head, separator, data = data.partition(b"\r\n\r\n")
            if not separator:
                self._rest = head
                return b""
            assert head.startswith(b"HTTP/1.1 200 "), head
            self._headed = True
        pieces = []
        while data:
            if self._chunk_left == 0:
                line, separator, after = data.partition(b"\r\n")
                if not separator:
                    self._rest = data
                    break
                self._chunk_left, data = int(line, 16) + 2, after
            piece, data = data[: self._chunk_left], data[self._chunk_left :]
            self._chunk_left -= len(piece)
            # The chunk's own CRLF is its last two bytes, and may come in two pieces.
            over = max(0, 2 - self._chunk_left)
            pieces.append(piece[:-over] if over else piece)
        return b"".join(pieces)


def stream_request(run_id: str, position: int) -> bytes:
    return f"GET {RUNS}/{run_id}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nLast-Event-ID: {position}\r\n\r\n".encode()


async def watchers(port: int, run_id: str, positions: Iterable[int]) -> list[Watcher]:
    """Open one stream for each position."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(AT_ONCE)

    async def open_one(position: int) -> Watcher:
        async with gate:
            _, made = await loop.create_connection(lambda: Watcher(run_id, position), "127.0.0.1", port)
        return made

    return list(await asyncio.gather(*(open_one(position) for position in positions)))


async def silent_sockets(port: int, run_id: str, count: int) -> list[socket.socket]:
    """Open streams on sockets that nobody reads; the kernel takes a little for each."""
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(count):
        each = socket.socket()
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        each.setblocking(False)
        await loop.sock_connect(each, ("127.0.0.1", port))
        await loop.sock_sendall(each, stream_request(run_id, 0))
        made.append(each)
    return made


def vanish(connection: socket.socket) -> None:
    """Let the peer see a machine that is gone: from now on the kernel drops whatever comes for this socket unseen.

    Nothing is acknowledged, no FIN and no RST is sent.  A classic BPF program of one instruction, `ret 0`; Linux alone
    has it, and some kernels let root alone attach it.
    """
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


def may_vanish() -> bool:
    """Whether the kernel lets us drop what comes for a socket of ours."""
    with socket.socket() as own:
        try:
            vanish(own)
        except PermissionError:
            return False
    return True


def resident_kib(pid: int, field: str = "VmRSS") -> int:
    """Return how much memory a process holds, or with ``VmHWM`` has held at most."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    return int(re.search(rf"^{field}:\s+([0-9]+) kB$", status, re.MULTILINE)[1])  # type: ignore[index]


def allow_files(count: int) -> None:
    """Let this process open ``count`` files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


async def until_true(condition: Callable[[], Awaitable[Any]], what: str) -> None:
    """Ask again and again until the answer is true."""
    try:
        async with asyncio.timeout(2 * PATIENCE_SECONDS):
            while not await condition():  # noqa: ASYNC110 - it is asked of another process
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"waited until {what}; it did not happen") from None
