"""The read path as a state machine over a real database: any interleaving of writing, publishing, following, losing,
repeating, reordering, leaving and coming back.

Rules run in a loop that the machine keeps, and the clients are tasks in it, so that they also advance in the midst of
other rules' statements.  No client has a heartbeat: what wakes it is news, a tail check, or a fill, and nothing else.

Half of the clients have streams that are tasks, as under any server; the others' have left ASGI, and are seated in the
run's crowd, full, or behind, whichever the rules make them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tailrace.access.credentials import Credentials
from tailrace.access.principal import EVERYBODY
from tailrace.http.detached import Detached
from tailrace.http.live import LiveStreams
from tailrace.read import crowd as crowds
from tailrace.read import follow as following
from tailrace.read import frame as frames
from tailrace.read import hub as hubs
from tailrace.read import pages
from tailrace.read.channel import Channel
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.events import Events
from tailrace.store.outbox import Outbox
from tailrace.telemetry import Telemetry
from tailrace.write.publisher import Publisher
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS, tried_again
from tests.read_support import HandWrittenRun, LossyBus

T = TypeVar("T")
CLIENTS = 6
_client = st.integers(0, CLIENTS - 1)
# Which message, and whether with its events or as a doorbell.
_picks = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=6)
_RUN_IDS = itertools.count()


class TinyChannel(Channel):
    """A ring so small that every client leaves it again and again."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id, ring_max_frames=2)


class Wire(asyncio.Transport):
    """A connection to a client that takes all there is, or nothing: then it is full after one more write."""

    def __init__(self, seqs: list[int], reads: asyncio.Event) -> None:
        super().__init__()
        self._seqs = seqs
        self._reads = reads
        self._text = b""
        self.protocol: asyncio.Protocol | None = None
        self.is_full = False
        self.ended = asyncio.get_running_loop().create_future()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def write(self, data: Any) -> None:
        assert not self.ended.done(), "written to after its end"
        # What comes in one write is whole frames.
        self._seqs += [int(line[4:]) for line in data.split(b"\n") if line.startswith(b"id: ")]
        if not self._reads.is_set() and not self.is_full:
            self.is_full = True
            assert self.protocol is not None
            self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return int(self.is_full)

    def abort(self) -> None:
        asyncio.get_running_loop().call_soon(self._lost)

    def end(self, received: bytes, is_paused: bool, may_go_on: bool) -> None:
        """The answer is complete."""
        self.ended.set_result(None)

    def read_on(self) -> None:
        if self.is_full and not self.ended.done():
            self.is_full = False
            assert self.protocol is not None
            self.protocol.resume_writing()

    def _lost(self) -> None:
        if not self.ended.done():
            assert self.protocol is not None
            self.protocol.connection_lost(None)
            self.ended.set_result(None)


class Client:
    """What one client has processed, in order, over all its connections."""

    def __init__(self, *, is_live: bool) -> None:
        self.is_live = is_live
        self.seqs: list[int] = []
        self.connection: asyncio.Task[None] | None = None
        self.wire: Wire | None = None
        self.reads = asyncio.Event()
        self.reads.set()

    @property
    def position(self) -> int:
        return self.seqs[-1] if self.seqs else 0

    async def connect(self, live: LiveStreams, run_id: str) -> None:
        if self.is_live:
            await self._live(live, run_id)
        else:
            await self._as_a_task(live.hub, live.events, run_id)

    async def _as_a_task(self, hub: hubs.Hub, events: Events, run_id: str) -> None:
        async with hub.watch(run_id) as (watched, tail):
            if tail.ended and self.position >= tail.last_seq:
                return  # Over HTTP: 204.
            async for chunk in following.follow(watched, events, self.position, heartbeat_seconds=3600):
                for line in chunk.text.split(b"\n"):
                    if line.startswith(b"id: "):
                        self.seqs.append(int(line[4:]))
                await self.reads.wait()

    async def _live(self, live: LiveStreams, run_id: str) -> None:
        watched, tail = await live.hub.attach(run_id)
        if tail.ended and self.position >= tail.last_seq:
            await live.hub.leave(watched)
            return
        wire = self.wire = Wire(self.seqs, self.reads)
        connections: set[Any] = set()
        live.take(Detached(wire, connections, True, wire.end), watched, EVERYBODY, self.position)
        try:
            await asyncio.shield(wire.ended)
        except asyncio.CancelledError:
            wire.abort()
            await wire.ended
            raise
        finally:
            assert connections == set()

    def read_on(self) -> None:
        self.reads.set()
        if self.wire is not None:
            self.wire.read_on()


class ReadPath(RuleBasedStateMachine):
    """Its invariant: every client has exactly 1..k, in order.  At the end each has everything and its stream ended."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._runner = self._stack.enter_context(asyncio.Runner())
        self._stack.enter_context(patch.object(hubs, "Channel", TinyChannel))
        self._stack.enter_context(patch.object(hubs, "FILL_MAX_EVENTS", 3))
        self._stack.enter_context(patch.object(pages, "FIRST_PAGE_EVENTS", 2))
        self._stack.enter_context(patch.object(frames, "CHUNK_MAX_FRAMES", 2))
        # Two that are seated are a crowd already, and its squads have one each.
        self._stack.enter_context(patch.object(crowds, "FEW", 1))
        self._stack.enter_context(patch.object(crowds, "SQUAD_MAX", 1))
        self.clients = [Client(is_live=number % 2 == 1) for number in range(CLIENTS)]
        self.ended = False

    @initialize()
    def begin(self) -> None:
        self._do(self._begin())

    async def _begin(self) -> None:
        self.database = Database(self.url, schema="tailrace", tx_timeout_ms=PATIENCE_MS)
        await tried_again(self.database.open)
        self.events = Events(self.database)
        self.bus = LossyBus()
        self.hub = hubs.Hub(self.bus, self.events)
        chosen = Settings(heartbeat_seconds=3600)
        self.live = LiveStreams(
            chosen, self.hub, self.events, Credentials(token_seconds=1, resume_seconds=1), Telemetry()
        )
        self.publisher = Publisher(Outbox(self.database), self.bus, Telemetry(), bus_timeout_seconds=5)
        self.run = await HandWrittenRun.start(self.database, f"property-{next(_RUN_IDS)}")
        await self._publish()
        for client in self.clients[:4]:
            await self._connect(client)

    # -- writing and publishing --

    @precondition(lambda self: not self.ended)
    @rule(count=st.integers(1, 5))
    def append(self, count: int) -> None:
        self._do(self.run.append_many(count))

    @precondition(lambda self: not self.ended)
    @rule(counts=st.lists(st.integers(1, 3), min_size=1, max_size=4), picks=_picks)
    def append_and_publish(self, counts: list[int], picks: list[tuple[int, bool]]) -> None:
        """Several messages of the bus, some of which arrive at once, in any order."""
        for count in counts:
            self._do(self.run.append_many(count))
            self._do(self._publish())
        self._let_through(len(counts), picks)

    @precondition(lambda self: not self.ended)
    @rule(counts=st.lists(st.integers(1, 3), min_size=1, max_size=3), full=st.none() | _client, reads_on=st.booleans())
    def pass_on(self, counts: list[int], full: int | None, *, reads_on: bool) -> None:
        """News that arrives as it should, while one client takes nothing."""
        if full is not None:
            self.clients[full].reads.clear()
        for count in counts:
            self._do(self.run.append_many(count))
            self._do(self._publish())
            self._do(self.bus.let_through(self.bus.kept[-1]))
        if full is not None and reads_on:
            self._do(self._read_on(self.clients[full]))

    @precondition(lambda self: not self.ended and self.run.last_seq > 10)
    @rule()
    def finish(self) -> None:
        self._do(self.run.finish())
        self.ended = True

    @rule()
    def publish(self) -> None:
        self._do(self._publish())

    async def _publish(self) -> None:
        self.publisher.hint([self.run.id])
        while await self.publisher.publish_once():
            pass

    # -- the bus --

    @precondition(lambda self: self.bus.kept)
    @rule(picks=_picks, again=st.booleans())
    def let_through(self, picks: list[tuple[int, bool]], *, again: bool) -> None:
        """Any of the newest messages, some not at all and some twice; what was picked may come once more later."""
        self._let_through(6, picks)
        if not again:
            del self.bus.kept[-6:]

    def _let_through(self, newest: int, picks: list[tuple[int, bool]]) -> None:
        messages = self.bus.kept[-newest:]
        for index, with_events in picks:
            message = messages[index % len(messages)]
            self._do(self.bus.let_through(message if with_events else message._replace(events=())))

    @precondition(lambda self: self.bus.kept)
    @rule()
    def lose(self) -> None:
        self.bus.kept.clear()

    # -- the hub's duties --

    @rule()
    def check_tails(self) -> None:
        self._do(self.hub.check_tails_once())

    @rule()
    def fill(self) -> None:
        self._do(self.hub.fill_once())

    @rule()
    def fill_and_publish_at_once(self) -> None:
        self._do(self._both())

    async def _both(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.hub.fill_once())
            tasks.create_task(self._publish())
            tasks.create_task(self.hub.check_tails_once())

    # -- the clients --

    @rule(which=_client)
    def connect(self, which: int) -> None:
        """Begin, or come back from the last event processed; an open connection is left as it is."""
        self._do(self._connect(self.clients[which]))

    async def _connect(self, client: Client) -> None:
        if client.connection is None or client.connection.done():
            client.connection = asyncio.create_task(client.connect(self.live, self.run.id))

    @rule(which=_client)
    def disconnect(self, which: int) -> None:
        self._do(self._disconnect(self.clients[which]))

    async def _disconnect(self, client: Client) -> None:
        if client.connection is not None:
            client.connection.cancel()
            await asyncio.wait({client.connection})
            if not client.connection.cancelled():
                client.connection.result()

    @rule(which=_client)
    def stop_reading(self, which: int) -> None:
        self.clients[which].reads.clear()

    @rule(which=_client)
    def read_on(self, which: int) -> None:
        self._do(self._read_on(self.clients[which]))

    async def _read_on(self, client: Client) -> None:
        client.read_on()

    @rule()
    def sweep(self) -> None:
        self._do(self.live.sweep_once())

    # -- what must hold --

    @invariant()
    def each_client_has_each_event_once_and_in_order(self) -> None:
        for client in self.clients:
            assert client.seqs == list(range(1, len(client.seqs) + 1))

    @invariant()
    def no_connection_has_failed(self) -> None:
        for client in self.clients:
            if client.connection is not None and client.connection.done() and not client.connection.cancelled():
                client.connection.result()

    def teardown(self) -> None:
        """Heal everything: each client that comes gets all there is, and its stream ends by itself."""
        with self._stack:
            if not hasattr(self, "run"):
                return
            try:
                self._do(self._heal())
            finally:
                self._do(self._close())

    async def _heal(self) -> None:
        if not self.ended:
            await self.run.finish()
        await self._publish()
        for client in self.clients:
            client.read_on()
            await self._connect(client)
        await self.hub.check_tails_once()
        filling = asyncio.create_task(self._fill_when_asked())
        connections = [client.connection for client in self.clients if client.connection is not None]
        _, waiting = await asyncio.wait(connections, timeout=PATIENCE_SECONDS)
        filling.cancel()
        held = [(client.position, client.connection in waiting) for client in self.clients]
        assert not waiting, f"the run ends at {self.run.last_seq}; (position, waiting) are {held}"
        for client in self.clients:
            assert client.seqs == list(range(1, self.run.last_seq + 1))
        while self.hub._leaving:
            await asyncio.wait(self.hub._leaving)
        assert self.hub.watched_runs == 0
        assert self.live.open == set()
        assert self.bus._watched == set()

    async def _fill_when_asked(self) -> None:
        while True:
            await self.hub.fill_once()
            if not self.hub._to_fill:
                await self.hub.fill.wait()
                self.hub.fill.clear()

    async def _close(self) -> None:
        for client in self.clients:
            await self._disconnect(client)
        await self.database.close()

    def _do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)


def test_every_client_gets_every_event_once_and_in_order_in_any_interleaving(tailrace_database: str) -> None:
    """Whatever the bus loses, repeats or reorders, whoever leaves and comes back (the contract's invariants 4, 5)."""

    class Here(ReadPath):
        url = tailrace_database

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            # A failure is a wait that does not end: to shrink it would take as many such waits.
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
