"""The event stream: one run's events as Server-Sent Events, live and from any position.

Written as plain ASGI: frames that wait together go out in one write (measured: 2.2 M events/s in batches, 133 k one
by one, 57 k through sse-starlette).

Behind our own server a stream leaves ASGI as soon as its head is written (``http.live``); behind another it stays a
task.  Both read by ``read.follow`` and the run's channel, and send the same bytes.

A browser's ``EventSource`` gives up for ever on any status but 200, so trouble that passes is answered 200 with a
jittered ``retry:`` and an end; 204 tells it that all has been delivered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tailrace.access.principal import Principal
from tailrace.errors import PositionAhead, PositionGone, RunNotFound, Unavailable
from tailrace.http.connection import ABORT
from tailrace.http.detached import DETACH, Detached
from tailrace.http.ending import RETRY_MS, farewell
from tailrace.http.services import GetServices, Services
from tailrace.model.run import is_run_id
from tailrace.read.follow import follow
from tailrace.read.frame import retry
from tailrace.read.hub import Watched
from tailrace.telemetry import RequestRefused, StreamClosed, StreamOpened

HEADERS = [
    # Exactly this: a charset parameter fails clients that compare the whole value.
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
# Each write is bounded in time, so it must be small for a slow reader to live: with the bounds of http/connection.py
# one that takes 1 KB/s does.
WRITE_MAX_BYTES = 16 * 2**10


class EventStream(Response):
    """Answers one stream request; ``position`` is the last seq the client has processed.

    :param principal: who asks: another tenant's run is not there, and when its key is revoked the stream ends.
    """

    def __init__(self, get_services: GetServices, run_id: str, position: int, principal: Principal) -> None:
        self._principal = principal
        self._get_services = get_services
        self._run_id = run_id
        self._position = position
        self._started = False
        self._write_seconds = 0.0
        self._client_gone = False
        self.background = None

    @property
    def started(self) -> bool:
        """Whether the head of the answer is sent."""
        return self._started

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer: the stream, 204 when it has ended, or a request to come again."""
        try:
            services = self._get_services()
            self._write_seconds = services.settings.write_seconds
            is_full = services.streams_open >= services.settings.max_streams
            if services.hub.closing or is_full:
                if is_full:
                    services.telemetry.tell(RequestRefused("too-many-streams"))
                await self._come_again(send)
                return
            # Before the first await, so that the bound also holds for those that come in one moment.
            services.streams_open += 1
            is_detached = False
            try:
                is_detached = await self._attach(services, scope, receive, send)
            finally:
                if not is_detached:
                    services.streams_open -= 1
        except Unavailable:
            if self._started:
                raise
            await self._come_again(send)

    async def _attach(self, services: Services, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer, or begin to; return whether the stream goes on without this task."""
        if not is_run_id(self._run_id):
            raise RunNotFound(f"there is no run {self._run_id[:128]!r}")
        watched, tail = await services.hub.attach(self._run_id, tenant=self._principal.tenant)
        is_detached = False
        try:
            if tail.ended and self._position >= tail.last_seq:
                await Response(status_code=204)(scope, receive, send)
                return False
            if self._position > tail.last_seq:
                raise PositionAhead(
                    f"the position {self._position} is beyond the run's last event, {tail.last_seq}; "
                    "begin from a position that you have been given"
                )
            await services.archived.require(self._run_id, self._position, tail)
            services.telemetry.tell(StreamOpened(self._run_id, self._position, self._position > 0))
            is_detached = await self._stream(services, watched, scope, receive, send)
        finally:
            if not is_detached:
                await services.hub.leave(watched)
        return is_detached

    async def _stream(self, services: Services, watched: Watched, scope: Scope, receive: Receive, send: Send) -> bool:
        """Stream to the end, or hand the connection over and return True."""
        reason = "trouble"
        connection: Detached | None = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            self._started = True
            detach = _extension(scope, DETACH, "detach")
            connection = detach() if detach is not None else None
            if connection is None:
                reason = await self._watch_client(services, watched, receive, send)
                if reason == "too-slow":
                    await _cut(scope, receive)
        finally:
            if connection is None:
                services.telemetry.tell(StreamClosed(self._run_id, self._position, reason))
        if connection is None:
            return False
        services.live.take(connection, watched, self._principal, self._position)
        return True

    async def _watch_client(self, services: Services, watched: Watched, receive: Receive, send: Send) -> str:
        """Send until the end, or until the client goes away, which only ``receive`` tells."""
        sending = asyncio.current_task()
        assert sending is not None  # noqa: S101 - ASGI applications run in a task

        def gone(_: object) -> None:
            self._client_gone = True
            sending.cancel()

        listening = asyncio.ensure_future(_disconnect(receive))
        listening.add_done_callback(gone)
        try:
            return await self._send(services, watched, send)
        except asyncio.CancelledError:
            if not self._client_gone:
                raise
            sending.uncancel()
            return "client-gone"
        finally:
            listening.remove_done_callback(gone)
            listening.cancel()

    async def _send(self, services: Services, watched: Watched, send: Send) -> str:
        try:
            return await self._pass_on(services, watched, send)
        except _ReaderStalled:
            return "too-slow"

    async def _pass_on(self, services: Services, watched: Watched, send: Send) -> str:
        settings = services.settings
        await self._body(send, retry(RETRY_MS))
        loop = asyncio.get_running_loop()
        rotate_at = loop.time() + settings.stream_max_seconds * random.uniform(0.9, 1.1)  # noqa: S311 - spreads, guards nothing
        following = follow(watched, services.events, self._position, heartbeat_seconds=settings.heartbeat_seconds)
        try:
            async with aclosing(following):
                async for chunk in following:
                    if not services.credentials.still_holds(self._principal):
                        return await self._end(send, "revoked")
                    await self._body(send, chunk.text)
                    self._position = chunk.last_seq
                    if chunk.terminal:
                        return await self._end(send, "terminal")
                    if loop.time() > rotate_at:
                        return await self._end(send, "rotated")
        except (Unavailable, PositionGone):  # for what is gone now, the next request is told so
            return await self._end(send, "trouble")
        return await self._end(send, "shutdown")

    async def _come_again(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await self._end(send, "trouble")

    async def _end(self, send: Send, reason: str) -> str:
        await self._body(send, farewell(reason), more=False)
        return reason

    async def _body(self, send: Send, text: bytes, *, more: bool = True) -> None:
        for start in range(0, len(text) or 1, WRITE_MAX_BYTES):
            part = text[start : start + WRITE_MAX_BYTES]
            is_last = start + WRITE_MAX_BYTES >= len(text)
            try:
                async with asyncio.timeout(self._write_seconds):
                    await send({"type": "http.response.body", "body": part, "more_body": more or not is_last})
            except TimeoutError:
                raise _ReaderStalled from None


async def _cut(scope: Scope, receive: Receive) -> None:
    """Abort the connection, with all that the transport still holds for a client that does not take it.

    A server without our extension closes the connection of a response that was not completed, when it can.
    """
    abort = _extension(scope, ABORT, "abort")
    if abort is not None:
        abort()
        await _disconnect(receive)


def _extension(scope: Scope, name: str, key: str) -> Callable[[], Any] | None:
    """Return what the server offers beyond ASGI, None where it is not ours."""
    found: Callable[[], Any] | None = (scope.get("extensions") or {}).get(name, {}).get(key)
    return found


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _ReaderStalled(Exception):
    """A write was not taken in time."""
