"""One HTTP connection, bounded in all that its client may choose (docs/adr/0015).

uvicorn parses and answers; this adds what it leaves open.  Of a connection one thing is due at any moment:

    who owes        what                                     bound
    the client      the head of a request                    ``request_seconds``, ``URL_MAX_BYTES``, ``HEAD_MAX_BYTES``
    the server      the answer (the body is read by it)      none here: the application bounds its reads and writes
    the client      the rest of a body already answered      ``LINGER_SECONDS``
    the client      to take an answer that is written        ``write_seconds`` without taking a byte

A client that goes over a bound is told so by a problem document where it can be, and its connection is closed.

An application may take a connection over in the midst of its answer (``DETACH``): an event stream needs neither parser
nor task (docs/adr/0020).  It stays among the server's, and is given back when the answer is complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, NoReturn, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tailrace.http.detached import DETACH, Detached
from tailrace.http.problems import BELOW, problem
from tailrace.telemetry import RequestRefused, Telemetry

# nginx and Tomcat stop at 8 KB for a request line, and proxies in front of us with them.
URL_MAX_BYTES = 8 * 2**10
# Node and Tomcat take 16 and 8 KB of headers, nginx 32, uvicorn's h11 64, Go 1 MB, uvicorn's httptools all there is.
HEAD_MAX_BYTES = 16 * 2**10
# Nobody but load generators sends ahead of the answer; each waiting request costs some 5 KB.
PIPELINE_MAX = 16
# What is left of a refused body is read for so long, for a reset would take the refusal from its client's hands.
LINGER_SECONDS = 5.0
# Unsent bytes above which a writer waits; uvicorn's 64 KB, halved, since it is held once for each reader that stalls.
WRITE_BUFFER_BYTES = 32 * 2**10
# And below which it goes on. The kernel takes more once half of what it keeps unsent (http/server.py) is gone, 32 KB.
# A writer must not wait for more than one such step: two take a reader at 1 KB/s longer than its bound (measured).
WRITE_BUFFER_LOW_BYTES = 24 * 2**10
# The ASGI extension by which an application cuts its connection: {"abort": callable}.
ABORT = "tailrace.abort"

Due = Literal["head", "body"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator may choose.

    :param connections_max: connections open at the same time; further ones are closed at once.
    :param request_seconds: how long the head of a request may take.
    :param write_seconds: how long a client may take nothing of what is written to it.
    """

    connections_max: int = 12_000
    request_seconds: float = 10.0
    write_seconds: float = 60.0


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol within ``Limits``."""

    def __init__(
        self,
        limits: Limits,
        telemetry: Telemetry,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._telemetry = telemetry
        self._refusal: tuple[HTTPStatus, str] | None = None
        self._reading: Due = "head"
        self._head_bytes = 0
        self._partial_bytes = 0
        self._due: Due | None = None
        self._due_timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._unsent_timer: asyncio.TimerHandle | None = None

    # -- the transport -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Take the connection, or close it at once where there are too many.

        Without an answer: an ``EventSource`` comes again after a lost connection, and never after a 503.
        """
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections_max:
            self._telemetry.tell(RequestRefused("too-many-connections"))
            transport.abort()
            return
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES, low=WRITE_BUFFER_LOW_BYTES)
        self._watch_client()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        super().connection_lost(exc)
        for timer in (self._due_timer, self._unsent_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        self._due_timer = self._unsent_timer = None

    def data_received(self, data: bytes) -> None:
        """Parse, and refuse a head that grows too large before it is complete."""
        if self.transport.is_closing():
            return  # What was refused goes on being sent.
        was_head, self._partial_bytes = self._reading == "head", self._partial_bytes + len(data)
        super().data_received(data)
        if self._reading != "head" or not was_head:
            self._partial_bytes = 0
        if self._partial_bytes > HEAD_MAX_BYTES and not self.transport.is_closing():
            self._refusal = _HEAD_TOO_LARGE
            self.send_400_response("")
        self._watch_client()

    def pause_writing(self) -> None:
        """Begin to look whether the client takes anything."""
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        self._unsent_timer = self.loop.call_later(self._limits.write_seconds, self._look_at_unsent)

    def resume_writing(self) -> None:
        """The client has taken what there was."""
        super().resume_writing()
        if self._unsent_timer is not None:
            self._unsent_timer.cancel()
            self._unsent_timer = None

    # -- the parser ----------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a head; the application gets the means to cut the connection."""
        super().on_message_begin()
        self._head_bytes = 0
        self.scope["extensions"] = {ABORT: {"abort": self.transport.abort}, DETACH: {"detach": self._detach}}

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        super().on_url(url)
        if len(self.url) > URL_MAX_BYTES:
            self._refuse(
                HTTPStatus.REQUEST_URI_TOO_LONG, f"the request's target has more than the {URL_MAX_BYTES} bytes allowed"
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_MAX_BYTES:
            self._refuse(*_HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Hand the request over."""
        if sum(name == b"host" for name, _ in self.headers) > 1:
            self._refuse(HTTPStatus.BAD_REQUEST, "the request has more than one Host")
        if len(self.pipeline) >= PIPELINE_MAX:
            self._refuse(HTTPStatus.BAD_REQUEST, f"more than {PIPELINE_MAX} requests wait for an earlier one's answer")
        super().on_headers_complete()
        self._reading, self._partial_bytes = "body", 0

    def on_message_complete(self) -> None:
        """The request is complete; another may follow."""
        super().on_message_complete()
        self._reading = "head"

    def on_response_complete(self) -> None:
        """The answer is written; something is due from the client again."""
        super().on_response_complete()
        self._watch_client()

    # -- taken over ----------------------------------------------------------------------------------------------

    def _detach(self) -> Detached | None:
        """Hand the connection over to the application that answers, None when HTTP has still to be done on it."""
        cycle = self._answering()
        if (
            cycle is None
            or cycle.disconnected
            or not cycle.chunked_encoding
            or self.pipeline
            or self._reading != "head"
            or self._partial_bytes
            or self.transport.is_closing()
        ):
            return None
        for timer in (self._due_timer, self._unsent_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        # A large body may have stopped it; a client that leaves is noticed by reading alone.
        self.flow.resume_reading()
        # uvicorn then takes it as a client that has gone: it sends nothing more and misses no end of the answer.
        cycle.disconnected = True
        self.connections.discard(self)
        detached = Detached(self.transport, self.connections, cycle.keep_alive, self._resumption())
        # What refers to each other is freed at once and not when the collector comes.
        self.parser = self.cycle = self.scope = self.flow = cast("Any", None)
        return detached

    def _resumption(self) -> Callable[[bytes, bool, bool], None]:
        limits, config, state, app_state, loop = self._limits, self.config, self.server_state, self.app_state, self.loop
        transport, telemetry = self.transport, self._telemetry

        def give_back(received: bytes, is_paused: bool, may_go_on: bool) -> None:
            again = BoundedHttp(limits, telemetry, config, state, app_state, loop)
            transport.set_protocol(again)
            again.connection_made(transport)
            if is_paused:
                again.pause_writing()
            again.on_response_complete()
            if not may_go_on:
                transport.close()
            elif received:
                again.data_received(received)

        return give_back

    # -- bounds --------------------------------------------------------------------------------------------------

    def _watch_client(self) -> None:
        """Bound what the client owes now; what it owed before and still does goes on being bounded."""
        due = None if self._answering() is not None or self.transport.is_closing() else self._reading
        if due == self._due:
            return
        self._due = due
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        if due is not None:
            seconds = self._limits.request_seconds if due == "head" else LINGER_SECONDS
            self._due_timer = self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        if self.transport.is_closing():
            return
        if self._due == "body":
            self.transport.abort()
        elif self._partial_bytes:
            self._refusal = (
                HTTPStatus.REQUEST_TIMEOUT,
                f"the head of the request did not come within {self._limits.request_seconds:g} s",
            )
            self.send_400_response("")
        else:
            self.transport.close()

    def _look_at_unsent(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        # An answer in progress is bounded by its application, which knows what it means and says so in its logs.
        if unsent >= self._unsent and self._answering() is None:
            self.transport.abort()
            return
        self._unsent = unsent
        self._unsent_timer = self.loop.call_later(self._limits.write_seconds, self._look_at_unsent)

    def _answering(self) -> RequestResponseCycle | None:
        """Return the newest request if its answer is not complete."""
        newest = cast("RequestResponseCycle | None", self.cycle)
        return newest if newest is not None and not newest.response_complete else None

    # -- refusals ------------------------------------------------------------------------------------------------

    def _refuse(self, status: HTTPStatus, detail: str) -> NoReturn:
        """Stop the parser, which then has ``send_400_response`` called."""
        self._refusal = (status, detail)
        raise ValueError(detail)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, or goes over a bound, by a problem document, and close."""
        cycle = self._answering()
        if cycle is not None:
            if cycle.response_started or self.pipeline:
                self.transport.abort()  # Words in the midst of another answer would be taken for a part of it.
                return
            cycle.disconnected = True
            cycle.message_event.set()
        status, detail = self._refusal or (HTTPStatus.BAD_REQUEST, f"this is not HTTP: {msg or 'it cannot be parsed'}")
        answer = problem(status, detail, kind=BELOW[status], headers={"connection": "close"})
        lines = [b"%b: %b\r\n" % header for header in answer.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", bytes(answer.body)]))
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: the request is answered as if it had not asked, and a client must not fill the log."""


_HEAD_TOO_LARGE = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"the request's headers have more than the {HEAD_MAX_BYTES} bytes allowed",
)
