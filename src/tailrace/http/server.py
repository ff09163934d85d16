"""An ASGI application behind uvicorn, from the first connection to the last."""

from __future__ import annotations

import asyncio
import functools
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from tailrace.http.connection import BoundedHttp, Limits
from tailrace.telemetry import Telemetry

# Streams end at once when the process is asked to stop; this is for requests in progress.
GRACEFUL_SECONDS = 5
# A peer that is silent for the first is asked, every second of the second; write_seconds say when it is given up.
KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS = 30, 10
# Not yet sent bytes that the kernel keeps for a connection.  Left alone it keeps up to 4 MB (tcp_wmem) for each reader
# that stalls; unlike SO_SNDBUF this leaves what is on its way, and so the speed of long lines, as it is.
KERNEL_UNSENT_BYTES = 64 * 2**10
# Linux lets TCP_USER_TIMEOUT also end a connection whose reader lives and has been slow for so long that its window was
# mostly shut, whatever it took meanwhile (measured on 6.18: a reader at a tenth of the pace is cut to the second). At 1
# KB/s and once the write bound, 57 KB came through, less than the largest event; three times is 170 KB.
USER_TIMEOUT_WRITES = 3
# Files that are not connections of clients: the database's, logs, what agents open.
OTHER_FILES = 1000


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone.

        uvicorn would raise them once more when it has stopped, which ends the process before the App has given its
        leases back.
        """
        yield


@asynccontextmanager
async def serving(
    asgi: ASGIApp, listening: socket.socket, limits: Limits | None = None, telemetry: Telemetry | None = None
) -> AsyncIterator[uvicorn.Server]:
    """Serve ``asgi`` on a listening socket inside the block; set ``should_exit`` on what is yielded to stop earlier."""
    limits = limits or Limits()
    bound_connections(listening, limits)
    protocol: Any = functools.partial(BoundedHttp, limits, telemetry or Telemetry())
    config = uvicorn.Config(
        asgi,
        http=protocol,
        lifespan="off",
        log_config=None,
        access_log=False,  # its lines would hold query strings, and with them tokens
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn has no event to wait for
            await asyncio.sleep(0.001)
        yield server
    finally:
        server.should_exit = True
        await task
        # Streams that did not end in time have no task that uvicorn could cancel.
        for connection in list(server.server_state.connections):
            connection.transport.abort()


def bound_connections(listening: socket.socket, limits: Limits) -> None:
    """Let the kernel notice clients that vanish, and keep little for those that stall; accepted sockets inherit it.

    A client that vanishes without a word is noticed within the write bound by what it does not take, and on a silent
    stream, by the ping or the keep-alive probe that it does not acknowledge, within three times that.  Without
    ``TCP_USER_TIMEOUT`` Linux retries for a quarter of an hour.
    """
    if listening.family not in (socket.AF_INET, socket.AF_INET6):
        return
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_USER_TIMEOUT", int(limits.write_seconds * USER_TIMEOUT_WRITES * 1000)),
        ("TCP_NOTSENT_LOWAT", KERNEL_UNSENT_BYTES),
    ):
        option = getattr(socket, name, None)  # Linux has all of them, other systems some.
        if option is not None:
            listening.setsockopt(socket.IPPROTO_TCP, option, value)


def allow_connections(limits: Limits) -> None:
    """Let this process open as many files as connections and what is behind them take, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections_max + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
