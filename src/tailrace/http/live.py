"""Event streams that have left ASGI: a connection, a position, and no task (docs/adr/0020).

    attached ──▶ behind ⇄ seated ──▶ ended      the connection goes back to HTTP
                    │        │
                    └────────┴─────▶ lost       the client is gone, or was cut

    seated   up to date: a member of the run's crowd, which writes to it; it does nothing itself
    behind   full, or too far back: once its client has taken what is written, a task follows for it (``read.follow``),
             the same way that a stream under another server goes all its life, until it can be seated

One sweep looks at what is due by the clock for all of them: pings, age, revoked keys, clients that take nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field

from tailrace.access.credentials import Credentials
from tailrace.access.principal import Principal
from tailrace.errors import PositionGone, Unavailable
from tailrace.http.detached import Detached
from tailrace.http.ending import RETRY_MS, farewell
from tailrace.read.crowd import Squad
from tailrace.read.follow import follow
from tailrace.read.frame import PING, http_chunk, retry
from tailrace.read.hub import Hub, Watched
from tailrace.settings import Settings
from tailrace.store.events import Events
from tailrace.telemetry import RequestFailed, StreamClosed, Telemetry

LAST_CHUNK = b"0\r\n\r\n"
# What a client may send ahead while its stream is open: the head of the next request.
RECEIVED_MAX_BYTES = 16 * 2**10
_PING = http_chunk(PING)
# A look at a stream takes 0.5 µs; so many are looked at in one turn of the loop.
SWEEP_TURN = 500
# How late a ping, a rotation or a cut may be, as a part of its interval, and at most.
SWEEP_PART, SWEEP_MIN_SECONDS, SWEEP_MAX_SECONDS = 0.1, 0.01, 1.0


@dataclass(slots=True, eq=False)
class LiveStreams:
    """The streams of a process that have left ASGI, and what they share; ``on_end`` is called once for each."""

    settings: Settings
    hub: Hub
    events: Events
    credentials: Credentials
    telemetry: Telemetry
    on_end: Callable[[], None] = lambda: None
    open: set[LiveStream] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def sweep_seconds(self) -> float:
        """How often to sweep."""
        settings = self.settings
        shortest = min(settings.heartbeat_seconds, settings.write_seconds, settings.stream_max_seconds)
        return min(SWEEP_MAX_SECONDS, max(SWEEP_MIN_SECONDS, shortest * SWEEP_PART))

    def take(self, connection: Detached, watched: Watched, principal: Principal, position: int) -> None:
        """Go on with a stream whose head is written; ``watched`` is let go at its end."""
        stream = LiveStream(self, connection, watched, principal, position)
        self.open.add(stream)
        connection.connections.add(stream)
        connection.transport.set_protocol(stream)
        stream.begin()

    async def sweep_once(self) -> bool:
        """Look at every stream; return False, for there is nothing to do again at once."""
        loop = asyncio.get_running_loop()
        for number, stream in enumerate(list(self.open), 1):
            stream.look(loop.time())
            if number % SWEEP_TURN == 0:
                await asyncio.sleep(0)
        return False

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run what catches a stream up; it is cancelled with its stream."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cut what is left; streams end by themselves when the hub closes."""
        for stream in list(self.open):
            stream.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


class LiveStream(asyncio.Protocol):
    """One stream; a member of its run's crowd (``read.crowd.Member``) while it is up to date."""

    __slots__ = (
        "_age_at", "_connection", "_is_old", "_is_paused", "_position", "_reason", "_received", "_resumed", "_streams",
        "_task", "_unsent", "_unsent_since", "_watched", "_wrote_at", "principal", "squad", "transport", "write",
    )  # fmt: skip

    def __init__(
        self, streams: LiveStreams, connection: Detached, watched: Watched, principal: Principal, position: int
    ) -> None:
        self.transport = connection.transport
        self.write = connection.transport.write
        self.principal = principal
        self.squad: Squad | None = None
        self._connection = connection
        self._streams = streams
        self._watched: Watched | None = watched
        self._position = position
        self._reason: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._resumed: asyncio.Future[None] | None = None
        self._received = b""
        self._is_paused = self._is_old = False
        self._unsent, self._unsent_since = 0, 0.0
        now = asyncio.get_running_loop().time()
        self._wrote_at = now
        self._age_at = now + streams.settings.stream_max_seconds * random.uniform(0.9, 1.1)  # noqa: S311 - spreads

    # -- states --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Send what a stream begins with."""
        self.write(http_chunk(retry(RETRY_MS)))
        self._go_on()

    def end(self, reason: str) -> None:
        """End the stream, as soon as its client has taken what is written."""
        if self._reason is None and self._watched is not None:
            self._unseat()
            self._reason = reason
            if not self._is_paused:
                self._give_back()

    def fall_behind(self) -> None:
        """Leave the crowd and be served from the database."""
        self._unseat()
        self._go_on()

    def _go_on(self) -> None:
        """Be seated, or have a task that goes as far as is needed for it."""
        if self._task is None and not self._is_paused and self._reason is None and not self._sit_down():
            self._task = self._streams.spawn(self._catch_up())

    def _sit_down(self) -> bool:
        """Join the crowd, or end; return False where neither is possible yet."""
        watched = self._watched
        if watched is None or self._is_paused:
            return False
        if watched.channel.closed:
            self.end("shutdown")
            return True
        due = watched.crowd.join(self, self._position)
        if due is None:
            return False
        if due.text:
            self._wrote_at = asyncio.get_running_loop().time()
            self.write(http_chunk(due.text))
        if due.terminal:
            self.end("terminal")
        return True

    def _unseat(self) -> None:
        if self.squad is not None and self._watched is not None:
            self._position = self._watched.crowd.leave(self)

    async def _catch_up(self) -> None:
        streams, watched = self._streams, self._watched
        assert watched is not None  # noqa: S101 - it is cancelled with its stream
        heartbeat = streams.settings.heartbeat_seconds
        try:
            async with aclosing(follow(watched, streams.events, self._position, heartbeat_seconds=heartbeat)) as chunks:
                async for chunk in chunks:
                    if not streams.credentials.still_holds(self.principal):
                        self.end("revoked")
                        return
                    self._wrote_at = asyncio.get_running_loop().time()
                    self.write(http_chunk(chunk.text))
                    self._position = chunk.last_seq
                    if chunk.terminal or self._is_old:
                        self.end("terminal" if chunk.terminal else "rotated")
                        return
                    await self._taken()
                    if self._sit_down():
                        return
            self.end("shutdown")
        except (Unavailable, PositionGone):  # for what is gone now, the next request is told so
            self.end("trouble")
        except Exception as error:  # noqa: BLE001 - told as what it is, and the client comes again
            streams.telemetry.tell(RequestFailed("GET", f"…/{watched.channel.run_id}/stream", error))
            self._cut("trouble")
        finally:
            self._task = None
            # Seated and full again while this task was on its way out.
            if self.squad is None and self._watched is not None:
                self._go_on()

    async def _taken(self) -> None:
        """Wait until the client has taken what is written."""
        while self._is_paused:
            self._resumed = asyncio.get_running_loop().create_future()
            try:
                await self._resumed
            finally:
                self._resumed = None

    def _give_back(self) -> None:
        """Complete the answer and go on with HTTP."""
        text = farewell(self._reason or "")
        self.write((http_chunk(text) if text else b"") + LAST_CHUNK)
        self._close(self._reason or "")
        self._connection.give_back(self._received, self._is_paused, self._connection.keep_alive)

    def _cut(self, reason: str) -> None:
        self._unseat()
        self._reason = reason
        self.transport.abort()

    def _close(self, reason: str) -> None:
        """Let go of everything."""
        watched, self._watched = self._watched, None
        if watched is None:
            return
        streams = self._streams
        streams.open.discard(self)
        self._connection.connections.discard(self)
        streams.hub.let_go(watched)
        streams.telemetry.tell(StreamClosed(watched.channel.run_id, self._position, reason))
        streams.on_end()

    # -- the clock -----------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Do what is due by the clock."""
        streams = self._streams
        if self._is_paused:
            unsent = self.transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._unsent, self._unsent_since = unsent, now
            elif now - self._unsent_since >= streams.settings.write_seconds:
                self._cut("too-slow")
        elif self.squad is None:
            # Its task pings, and looks at this after each write.
            self._is_old = now > self._age_at
        elif not streams.credentials.still_holds(self.principal):
            self.end("revoked")
        elif now > self._age_at:
            self.end("rotated")
        elif (
            now - max(self._wrote_at, self.squad.wrote_at) >= streams.settings.heartbeat_seconds - streams.sweep_seconds
        ):
            self._wrote_at = now
            self.write(_PING)

    # -- the transport -------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """Leave the crowd: what is written waits for the client."""
        self._is_paused = True
        self._unsent = self.transport.get_write_buffer_size()
        self._unsent_since = asyncio.get_running_loop().time()
        self._unseat()

    def resume_writing(self) -> None:
        """The client has taken what there was."""
        self._is_paused = False
        if self._reason is not None:
            if self._watched is not None:
                self._give_back()
        elif self._resumed is not None:
            if not self._resumed.done():
                self._resumed.set_result(None)
        else:
            self._go_on()

    def data_received(self, data: bytes) -> None:
        """Keep what is sent ahead of the answer's end, within its bound."""
        self._received += data
        if len(self._received) > RECEIVED_MAX_BYTES:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whichever way it went
        """The client is gone, or was cut."""
        self._unseat()
        if self._task is not None:
            self._task.cancel()
        self._close(self._reason if self._reason in ("too-slow", "trouble") else "client-gone")

    def shutdown(self) -> None:
        """Let no request follow; uvicorn calls it when the server is to stop, and the stream's end is on its way."""
        self._connection = self._connection._replace(keep_alive=False)
