"""A bus over a server of its own, Redis or NATS, to which each process holds one link.

    link_once:  connect ─▶ subscribe to every watched run, acknowledged ─▶ announce a loss ─▶ … ─▶ broken
                   ▲                                                                               │
                   └───────────────────────── the duty calls again ◀──────────────────────────────┘

The drivers' own reconnection is off, because it hides what was lost: redis-py subscribes again without a word and what
was published in between is gone; nats-py takes a ``publish()`` during an outage, raises nothing and loses it (both
measured).  Here a link is used until its first failure and then replaced as a whole, and each new link counts as a
loss, so that readers compare with the database at once.

Nothing waits for a server that is away: ``publish`` raises at once, ``subscribe`` returns and the next link takes the
run along.  A server that does not answer in ``patience_seconds`` is away.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit

from tailrace.bus.bus import OnLoss, OnPublished, Published
from tailrace.bus.message import MESSAGE_MAX_BYTES, decode, encode
from tailrace.bus.outage import Outage
from tailrace.errors import BusUnavailable
from tailrace.telemetry import Telemetry

CONNECT_SECONDS = 5.0
# What a question may take whose answer comes from memory; the publisher holds row locks meanwhile.
PATIENCE_SECONDS = 1.0
# A half-open connection looks healthy for ever; asking it something finds out.
PROBE_SECONDS = 10.0
# Between two attempts to connect; a link that broke sooner than this does not connect again at once.
RETRY_SECONDS = 1.0


class Link(Protocol):
    """A connected server; ``broken`` is done, with the reason, once the link is of no more use."""

    broken: asyncio.Future[str]

    @property
    def max_bytes(self) -> int:
        """The longest message that the server takes."""
        ...

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send a message for each run and return once the server has taken all of them."""
        ...

    async def subscribe(self, run_ids: Collection[str]) -> None:
        """Return once the server has acknowledged every subscription."""
        ...

    async def unsubscribe(self, run_ids: Collection[str]) -> None:
        """Ask the server to send nothing more for these runs."""
        ...

    async def check(self) -> None:
        """Return once the server has answered."""
        ...

    async def close(self) -> None:
        """Let go of the server, in bounded time and without raising for one that is gone."""
        ...


class Wire(Protocol):
    """How to reach one kind of server; ``errors`` is what its driver raises when the server is away or refuses."""

    url: str
    errors: tuple[type[Exception], ...]

    async def connect(self, on_message: Callable[[bytes], None], on_loss: Callable[[], None]) -> Link:
        """Return a link to a server that has answered; ``on_loss`` is for messages that the driver had to drop."""
        ...


class LinkedBus:
    """The bus over a ``Wire``; ``link_once`` is run by a duty."""

    def __init__(self, wire: Wire, telemetry: Telemetry, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._wire = wire
        self._failures: tuple[type[Exception], ...] = (TimeoutError, *wire.errors)
        self._patience_seconds = patience_seconds
        self._address = address_of(wire.url)
        self._outage = Outage(self._address, telemetry)
        # What this process publishes comes back to it; its own streams have it already.
        self._sender = secrets.token_hex(4)
        self._watched: set[str] = set()
        # Runs whose subscription was given up half-way; nobody will unsubscribe them.
        self._abandoned: set[str] = set()
        self._link: Link | None = None
        self._on_published: OnPublished = lambda _: None
        self._on_loss: OnLoss = lambda: None

    @property
    def hearing(self) -> bool:
        """Whether there is a link with every watched run subscribed."""
        return self._link is not None

    def attach(self, on_published: OnPublished, on_loss: OnLoss) -> None:
        """Name the receiver; every new link counts as a loss."""
        self._on_published, self._on_loss = on_published, on_loss

    async def publish(self, batch: Sequence[Published]) -> None:
        """Send the batch in one round trip; raise ``BusUnavailable``, at once while there is no link."""
        link = self._linked()
        max_bytes = min(MESSAGE_MAX_BYTES, link.max_bytes)
        messages = [(each.run_id, encode(self._sender, each, max_bytes=max_bytes)) for each in batch]
        await self._ask_in_turn(link, link.publish(messages))

    async def subscribe(self, run_id: str) -> None:
        """Return once the server has acknowledged, or at once without a link: the next one announces a loss."""
        self._watched.add(run_id)
        if self._link is None:
            return
        try:
            with suppress(BusUnavailable):
                await self._ask(self._link, self._link.subscribe([run_id]))
        except asyncio.CancelledError:
            # A client that vanished while it attached; the link goes on for the others.
            self._watched.discard(run_id)
            self._abandoned.add(run_id)
            raise

    async def unsubscribe(self, run_id: str) -> None:
        """Pass this run on no longer."""
        self._watched.discard(run_id)
        if self._link is not None:
            with suppress(BusUnavailable):
                await self._ask(self._link, self._link.unsubscribe([run_id]))

    async def check(self) -> None:
        """Raise ``BusUnavailable`` unless the server answers."""
        link = self._linked()
        await self._ask_in_turn(link, link.check())

    async def link_once(self) -> bool:
        """Connect, stay until the link breaks, and return whether to connect again at once."""
        clock = asyncio.get_running_loop().time
        begun, link = clock(), None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                link = await self._wire.connect(self._heard, self._dropped)
                await self._subscribe_all(link)
            # Nothing is awaited between the last look at the watched runs and this.
            self._link = link
            self._outage.end()
            self._on_loss()
            self._drop(link, await self._until_broken(link))
        except TimeoutError:
            self._outage.begin(f"no connection within {CONNECT_SECONDS:g} s")
        except self._wire.errors as error:
            self._outage.begin(self._text(error))
        finally:
            self._link = None
            if link is not None:
                await link.close()
        return link is not None and clock() - begun > RETRY_SECONDS

    async def _subscribe_all(self, link: Link) -> None:
        subscribed: set[str] = set()
        while subscribed != self._watched:  # Watchers come and go while the server answers.
            come, gone = self._watched - subscribed, subscribed - self._watched
            if come:
                await link.subscribe(come)
            if gone:
                await link.unsubscribe(gone)
            subscribed = (subscribed | come) - gone

    async def _until_broken(self, link: Link) -> str:
        while not (await asyncio.wait({link.broken}, timeout=PROBE_SECONDS))[0]:
            gone, self._abandoned = self._abandoned - self._watched, set()
            with suppress(BusUnavailable):
                if gone:
                    await self._ask(link, link.unsubscribe(gone))
                await self._ask_in_turn(link, link.check())
        return link.broken.result()

    def _linked(self) -> Link:
        if self._link is None:
            raise BusUnavailable(f"the bus {self._address} is away: {self._outage.reason or 'not yet connected'}")
        return self._link

    async def _ask(self, link: Link, question: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._patience_seconds):
                await question
        except self._failures as error:
            reason = self._text(error) or f"no answer within {self._patience_seconds:g} s"
            self._drop(link, reason)
            raise BusUnavailable(f"the bus {self._address} is away: {reason}") from error

    async def _ask_in_turn(self, link: Link, question: Awaitable[None]) -> None:
        try:
            await self._ask(link, question)
        except asyncio.CancelledError:
            # Its answer is still on the way and would be taken for that of the next question.
            self._drop(link, "a question was given up")
            raise

    def _drop(self, link: Link, reason: str) -> None:
        if not link.broken.done():
            link.broken.set_result(reason)
        if self._link is link:
            self._link = None
            self._outage.begin(reason)

    def _heard(self, message: bytes) -> None:
        read = decode(message)
        if read is not None and read[0] != self._sender and read[1].run_id in self._watched:
            self._on_published(read[1])

    def _dropped(self) -> None:
        self._on_loss()

    def _text(self, error: BaseException) -> str:
        """Return the driver's words without the password or token, should they repeat it."""
        text, parts = str(error), urlsplit(self._wire.url)
        if written := parts.password or parts.username:
            for secret in (written, unquote(written), quote(unquote(written), safe="")):
                text = text.replace(secret, "…")
        return text


def address_of(url: str) -> str:
    """Return scheme, host and port of a bus's URL, never its user or password."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}"
