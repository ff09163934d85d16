"""``nats://``: core NATS, a subject a run.

Two habits of nats-py decide how it is used here.  ``publish()`` during an outage raises nothing and loses the message
(measured), so its reconnection is off and the link is replaced as a whole.  ``flush()`` writes its PING ahead of
commands that still wait to be written, so its PONG acknowledges nothing (measured: of 300 messages published after
``subscribe()`` and ``flush()``, 18 never arrived); instead each question ends with a message to
a subject of the link's own: the server works in order, and when that comes back everything before it was taken.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from tailrace.bus.linked import address_of

# What may wait in this process for one run, beyond which nats-py drops: a few reads of the socket.  Readers then look
# into the database.
PENDING_MAX_MESSAGES = 4096
PENDING_MAX_BYTES = 8 * 2**20
CLOSE_SECONDS = 1.0
# The link is probed by the bus; nats-py's own pings need not be as frequent.
PING_SECONDS = 60


class NatsWire:
    """Connects to the NATS at ``url``; its subjects begin with ``tailrace.<namespace>.``."""

    errors: tuple[type[Exception], ...] = (nats.errors.Error, OSError, EOFError, TimeoutError)

    def __init__(self, url: str, namespace: str, *, pending_max_messages: int = PENDING_MAX_MESSAGES) -> None:
        self.url = url
        self._prefix = f"tailrace.{namespace}."
        self._pending_max_messages = pending_max_messages

    async def connect(self, on_message: Callable[[bytes], None], on_loss: Callable[[], None]) -> NatsLink:
        """Return a link to a server that has answered."""
        link = NatsLink(self._prefix, on_message, on_loss, self._pending_max_messages)
        try:
            await link.open(self.url)
        except BaseException:
            await link.close()
            raise
        return link


class NatsLink:
    """One connection, used until it breaks."""

    def __init__(
        self, prefix: str, on_message: Callable[[bytes], None], on_loss: Callable[[], None], pending_max_messages: int
    ) -> None:
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._client = Client()
        self._prefix = prefix
        self._on_message = on_message
        self._on_loss = on_loss
        self._pending_max_messages = pending_max_messages
        self._own_subject = f"{prefix}link.{secrets.token_hex(8)}"
        self._questions = itertools.count(1)
        self._asked: dict[bytes, asyncio.Future[None]] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._found = ""

    @property
    def max_bytes(self) -> int:
        """What this server takes in one message."""
        return self._client.max_payload

    async def open(self, url: str) -> None:
        """Connect, or raise what was found."""
        try:
            await self._client.connect(
                servers=[address_of(url)],
                **_credentials(url),
                name="tailrace",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                ping_interval=PING_SECONDS,
                error_cb=self._error,
                closed_cb=self._closed,
            )
            await self._client.subscribe(self._own_subject, cb=self._answered)
            await self.check()
        except nats.errors.NoServersError as error:
            raise ConnectionError(self._found or str(error)) from error

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send all messages, then wait until the server has taken them."""
        for run_id, message in messages:
            await self._client.publish(self._subject(run_id), message)
        await self.check()

    async def subscribe(self, run_ids: Collection[str]) -> None:
        """Subscribe to all, then wait until the server has."""
        for run_id in run_ids:
            if run_id not in self._subscriptions:
                self._subscriptions[run_id] = await self._client.subscribe(
                    self._subject(run_id),
                    cb=self._heard,
                    pending_msgs_limit=self._pending_max_messages,
                    pending_bytes_limit=PENDING_MAX_BYTES,
                )
        await self.check()

    async def unsubscribe(self, run_ids: Collection[str]) -> None:
        """Ask the server to send nothing more for these runs."""
        for run_id in run_ids:
            if (subscription := self._subscriptions.pop(run_id, None)) is not None:
                await subscription.unsubscribe()

    async def check(self) -> None:
        """Send a message to oneself and wait for it."""
        question = str(next(self._questions)).encode()
        answered = self._asked[question] = asyncio.get_running_loop().create_future()
        try:
            await self._client.publish(self._own_subject, question)
            await asyncio.wait({answered, self.broken}, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise ConnectionError(self.broken.result())
        finally:
            del self._asked[question]

    async def close(self) -> None:
        """Close the connection, by force if the server takes nothing more."""
        with suppress(*NatsWire.errors):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.close()
        if not self.broken.done():
            self.broken.set_result("closed")

    def _subject(self, run_id: str) -> str:
        # A dot divides subjects, and no run id holds a tilde.
        return f"{self._prefix}run.{run_id.replace('.', '~')}"

    async def _heard(self, message: Msg) -> None:
        self._on_message(message.data)

    async def _answered(self, message: Msg) -> None:
        waiting = self._asked.get(message.data)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def _error(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            self._on_loss()
            return
        self._found = str(error) or type(error).__name__
        # A refused subject is not an end for nats-py, but a link that may not say or hear everything is of no use.
        if "permissions violation" in self._found.lower() and not self.broken.done():
            self.broken.set_result(self._found)

    async def _closed(self) -> None:
        if not self.broken.done():
            self.broken.set_result(self._found or str(self._client.last_error or "the connection was closed"))


def _credentials(url: str) -> dict[str, Any]:
    """Return what nats-py would read from the URL, decoded, which it does not do; a name alone is a token."""
    parts = urlsplit(url)
    if parts.username and parts.password:
        return {"user": unquote(parts.username), "password": unquote(parts.password)}
    return {"token": unquote(parts.username)} if parts.username else {}
