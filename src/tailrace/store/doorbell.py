"""Wake-ups between processes: one LISTEN connection a process, notifications gathered into few.

A ring says that it may be worth looking now; it carries no truth, and every listener polls as well.  NOTIFY
serialises commits, and its cost grows with the listeners (measured: 34,900 a second with no other listener, 1,400
with 90), so there is one LISTEN a process, never one a client, and what rings together goes out in one notification,
in a transaction of its own that does not wait for the disk.

When the connection breaks, rings are lost without a trace.  ``listen_once`` returns then; the duty that runs it
connects again, and whoever asked by ``on_restored`` is told to look at everything.

A connection may also stand and hear nothing: through PgBouncer in transaction mode LISTEN is accepted and nothing ever
arrives (measured), and a half-open socket looks healthy for ever.  So it is tested, at the start and every now and
then: a nonce is rung over the ordinary pool and expected here.  ``hearing`` says whether it came; while it is false,
whoever waits for rings polls more often.

The test rings are heard by every process, so each knows whether there are others.  While there are none, nothing is
rung: a notification per batch cost a tenth of the pipeline (measured).  A process that hears another one for the first
time tells it to look at everything, for what it did not ring before.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum

from tailrace.errors import DatabaseUnavailable
from tailrace.store.database import Database
from tailrace.store.trouble import passing
from tailrace.telemetry import Telemetry, WakeupsDead, WakeupsLost, WakeupsRestored

# Postgres refuses payloads of 8,000 bytes and more.
PAYLOAD_MAX_BYTES = 7900
# Past this many, remembering them costs more than what they save: the listeners look at everything.
PENDING_MAX = 10_000
# Between two tests of the connection, and what a test ring may take; over a healthy one it takes milliseconds.
PROBE_SECONDS = 10.0
TEST_SECONDS = 5.0
TEST = "test"
# Another process is gone when this many of its tests are missing; and it has answered the first test of this one,
# which it heard, within this time.
GONE_AFTER_TESTS = 3
ANSWER_SECONDS = 1.0


class Ring(StrEnum):
    """What a ring is about; its argument in brackets."""

    EVENTS = "events"  # a run has events to publish [run id]
    JOBS = "jobs"  # a run was queued []
    CANCEL = "cancel"  # a run was asked to end [run id]
    PUBLISHED = "published"  # a run was published up to a seq [run id and seq]
    EVERYTHING = "everything"  # too much happened to say it one by one []


class Doorbell:
    """Rings other processes and hears them; a ring of this process reaches its own listeners directly."""

    def __init__(self, database: Database, telemetry: Telemetry) -> None:
        self._database = database
        self.telemetry = telemetry
        self._channel = f"tailrace_{database.schema}"
        # Notifications come back to their sender too; its own it has handled already.
        self._sender = secrets.token_hex(4)
        self._listeners: dict[Ring, list[Callable[[str], None]]] = {ring: [] for ring in Ring}
        self._restored: list[Callable[[], None]] = []
        self._pending: dict[tuple[Ring, str], int | None] = {}
        self._flushing = asyncio.Lock()
        self.waiting = asyncio.Event()
        self._nonce = ""
        self._nonce_or_end = asyncio.Event()
        self.listening = False
        self.hearing = False
        self._outage_told = False
        self._hearing_since = 0.0
        self._others: dict[str, float] = {}

    def on(self, ring: Ring, listener: Callable[[str], None]) -> None:
        """Call ``listener`` with the argument of every such ring; it may neither block nor raise."""
        self._listeners[ring].append(listener)

    @property
    def alone(self) -> bool:
        """Whether no other process is there to be rung; false as long as that is not known."""
        now = asyncio.get_running_loop().time()
        if not self.hearing or now < self._hearing_since + ANSWER_SECONDS:
            return False
        if self._others:
            gone = now - GONE_AFTER_TESTS * (PROBE_SECONDS + TEST_SECONDS)
            self._others = {sender: heard for sender, heard in self._others.items() if heard > gone}
        return not self._others

    @property
    def others(self) -> int:
        """How many other processes were heard; those that are there answer the first test within ``ANSWER_SECONDS``."""
        return len(self._others)

    def on_restored(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever rings may have been lost."""
        self._restored.append(listener)

    def ring(self, ring: Ring, argument: str = "") -> None:
        """Ring here at once, and elsewhere with the next flush."""
        for listener in self._listeners[ring]:
            listener(argument)
        self._queue(ring, argument, None)

    def announce(self, run_id: str, last_seq: int) -> None:
        """Queue, for other processes alone, that a run was published up to ``last_seq``; the highest wins."""
        earlier = self._pending.get((Ring.PUBLISHED, run_id)) or 0
        self._queue(Ring.PUBLISHED, run_id, max(last_seq, earlier))

    def _queue(self, ring: Ring, argument: str, number: int | None) -> None:
        if self.alone:
            return
        if len(self._pending) >= PENDING_MAX:
            self._pending = {(Ring.EVERYTHING, ""): None}
        else:
            self._pending[ring, argument] = number
        self.waiting.set()

    async def flush(self) -> bool:
        """Send what is queued; return whether there was anything.

        What cannot be sent stays queued, and ``DatabaseUnavailable`` is raised.
        """
        async with self._flushing:
            sending, self._pending = self._pending, {}
            try:
                for payload in self._payloads(sending):
                    await self._database.value("notify", self._channel, payload)
            except BaseException:
                # Newer rings win; a ring sent twice does no harm.
                self._pending = sending | self._pending
                raise
        return bool(sending)

    def _payloads(self, rings: dict[tuple[Ring, str], int | None]) -> list[str]:
        payloads = []
        lines, size = [self._sender], len(self._sender)
        for (ring, argument), number in rings.items():
            line = f"{ring} {argument}" if number is None else f"{ring} {argument} {number}"
            if size + 1 + len(line) > PAYLOAD_MAX_BYTES:
                payloads.append("\n".join(lines))
                lines, size = [self._sender], len(self._sender)
            lines.append(line)
            size += 1 + len(line)
        if len(lines) > 1:
            payloads.append("\n".join(lines))
        return payloads

    async def listen_once(self) -> bool:
        """Connect, listen until the connection breaks, and return."""
        connection = await self._database.connect()
        try:
            broken = asyncio.Event()
            connection.add_termination_listener(lambda _: self._ended(broken))
            with passing("listen to", self._database.address):
                await connection.add_listener(self._channel, self._heard)
            self.listening = True
            # Also after the first connection: what rang before it was not heard.
            for listener in self._restored:
                listener()
            await self._until_broken(broken)
        finally:
            self.listening = self.hearing = False
            connection.terminate()
        return True

    def _ended(self, broken: asyncio.Event) -> None:
        broken.set()
        self._nonce_or_end.set()

    async def _until_broken(self, broken: asyncio.Event) -> None:
        while True:
            heard = await self._test()
            if broken.is_set() or (self.hearing and heard is False):
                break
            if heard and not self.hearing:
                self._now_hearing()
            elif heard is False:
                self._tell_outage(
                    WakeupsDead(
                        "LISTEN was accepted and a ring of our own did not arrive, as behind PgBouncer in transaction "
                        "mode; events are looked for by polling. Name Postgres itself in TAILRACE_DATABASE_URL for "
                        "wake-ups at once"
                    )
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(PROBE_SECONDS):
                    await broken.wait()
                    break
        self._tell_outage(WakeupsLost("the LISTEN connection broke"))

    async def _test(self) -> bool | None:
        """Ring for oneself and return whether it was heard; None if it could not be rung."""
        self._nonce = secrets.token_hex(8)
        self._nonce_or_end.clear()
        try:
            async with asyncio.timeout(TEST_SECONDS):
                await self._database.value("notify", self._channel, f"{self._sender}\n{TEST} {self._nonce}")
                await self._nonce_or_end.wait()
        except TimeoutError:
            return False
        except DatabaseUnavailable:
            return None
        return True

    def _now_hearing(self) -> None:
        self.hearing = True
        self._hearing_since = asyncio.get_running_loop().time()
        if self._outage_told:
            self._outage_told = False
            self.telemetry.tell(WakeupsRestored())

    def _tell_outage(self, happening: WakeupsLost | WakeupsDead) -> None:
        if not self._outage_told:
            self._outage_told = True
            self.telemetry.tell(happening)

    def _met(self, sender: str) -> None:
        is_new = sender not in self._others
        self._others[sender] = asyncio.get_running_loop().time()
        if is_new:
            self._queue(Ring.EVERYTHING, "", None)

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        sender, *lines = str(payload).split("\n")
        if sender == self._sender:
            if lines == [f"{TEST} {self._nonce}"]:
                self._nonce_or_end.set()
            return
        self._met(sender)
        for line in lines:
            word, _, argument = line.partition(" ")
            try:
                ring = Ring(word)
            except ValueError:
                continue  # A newer Tailrace rings for something this one does not know; polling covers it.
            if ring is Ring.EVERYTHING:
                for restored in self._restored:
                    restored()
            for listener in self._listeners[ring]:
                listener(argument)
