"""``redis://``: publish and subscribe of Redis or Valkey, a channel a run.

Two connections a process, because a subscribed one takes no other commands.  They are redis-py's plain connections,
not its clients, which would connect again by themselves.  A slow subscriber is cut by the server
(``client-output-buffer-limit pubsub``), which is a broken link like any other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import RedisError

from tailrace.errors import SettingsError


class RedisWire:
    """Connects to the Redis at ``url``; its channels begin with ``tailrace:<namespace>:<number of the database>:``."""

    errors: tuple[type[Exception], ...] = (RedisError, OSError, EOFError)

    def __init__(self, url: str, namespace: str) -> None:
        self.url = url
        try:
            options: dict[str, Any] = dict(parse_url(url))
            self._class: type[AbstractConnection] = options.pop("connection_class", Connection)
            # Timeouts are those of the bus, which covers a whole question; a driver's own retry would hide a loss.
            own = {"protocol": 2, "socket_timeout": None, "client_name": "tailrace", "driver_info": None}
            self._options = options | own
            self._new()
        except (ValueError, TypeError) as error:
            raise SettingsError(f"TAILRACE_BUS_URL: redis-py does not take the part after the host: {error}") from None
        # Channels belong to the whole server; the database's number keeps apart what a user wants apart.
        self._prefix = f"tailrace:{namespace}:{options.get('db', 0)}:"

    async def connect(self, on_message: Callable[[bytes], None], on_loss: Callable[[], None]) -> RedisLink:  # noqa: ARG002 - nothing is dropped on this side
        """Return a link with both connections open."""
        receiving, sending = self._new(), self._new()
        try:
            await receiving.connect()  # type: ignore[no-untyped-call] # redis-py annotates some of its methods
            await sending.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await receiving.disconnect(nowait=True)
            await sending.disconnect(nowait=True)
            raise
        return RedisLink(receiving, sending, self._prefix, on_message)

    def _new(self) -> AbstractConnection:
        return self._class(**self._options)


class RedisLink:
    """Two open connections; either one's end is the link's."""

    # Redis takes up to 512 MB.
    max_bytes = 2**29

    def __init__(
        self,
        receiving: AbstractConnection,
        sending: AbstractConnection,
        prefix: str,
        on_message: Callable[[bytes], None],
    ) -> None:
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._receiving = receiving
        self._sending = sending
        self._one_question = asyncio.Lock()
        self._prefix = prefix
        self._on_message = on_message
        # Redis answers in the order of the questions: one entry for each answer due, with who waits for it.
        self._due: deque[asyncio.Future[None] | None] = deque()
        self._reader = asyncio.create_task(self._read(), name="bus.redis.read")

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send all messages, then read all answers."""
        commands = [("PUBLISH", self._prefix + run_id, message) for run_id, message in messages]
        await self._exchange(commands)

    async def subscribe(self, run_ids: Collection[str]) -> None:
        """Subscribe and wait for the last acknowledgement."""
        await self._tell("SUBSCRIBE", run_ids)

    async def unsubscribe(self, run_ids: Collection[str]) -> None:
        """Unsubscribe and wait for the last acknowledgement."""
        await self._tell("UNSUBSCRIBE", run_ids)

    async def check(self) -> None:
        """Ping on both connections."""
        await self._exchange([("PING",)])
        await self._tell("PING", ())

    async def close(self) -> None:
        """Close both connections."""
        self._reader.cancel()
        await asyncio.wait({self._reader})
        for connection in (self._receiving, self._sending):
            with suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
        if not self.broken.done():
            self.broken.set_result("closed")

    async def _exchange(self, commands: Sequence[tuple[str | bytes, ...]]) -> None:
        async with self._one_question:
            self._require_whole()
            await self._sending.send_packed_command(self._sending.pack_commands(commands))
            for _ in commands:
                await self._sending.read_response()

    async def _tell(self, command: str, run_ids: Collection[str]) -> None:
        self._require_whole()
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._due.extend([None] * (len(run_ids) - 1))
        self._due.append(answered)
        # The driver writes before it awaits anything, so the order of what is due is that on the wire.
        packed = self._receiving.pack_command(command, *(self._prefix + run_id for run_id in run_ids))
        await self._receiving.send_packed_command(packed)
        await answered

    def _require_whole(self) -> None:
        # redis-py would connect a closed connection again, silently and with nothing subscribed.
        if self.broken.done() or self._reader.done():
            raise ConnectionError(self.broken.result() if self.broken.done() else "the connection was closed")

    async def _read(self) -> None:
        reason = "the connection was closed"
        try:
            while True:
                answer = await self._receiving.read_response()
                if isinstance(answer, list) and answer[0] == b"message":
                    self._on_message(answer[2])
                elif self._due and (waiting := self._due.popleft()) is not None and not waiting.done():
                    waiting.set_result(None)
        except RedisWire.errors as error:
            reason = str(error) or reason
        finally:
            if not self.broken.done():
                self.broken.set_result(reason)
            for waiting in self._due:
                if waiting is not None and not waiting.done():
                    waiting.set_exception(ConnectionError(reason))
