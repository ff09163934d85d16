"""The canary: a run of the doctor's own that walks the whole path, append -> outbox -> bus -> SSE.

It is started through the API and executed here, under a lease of its own and for an agent that no worker serves; the
outbox, the bus and the server that it passes are those in use.  Its events come one at a time, each once the one before
has arrived: so whoever keeps events back is seen to.  No list shows it, and it is removed whatever happens; one that a
killed doctor left behind the next doctor removes.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx2

from tailrace.bus.bus import Bus, Published
from tailrace.errors import TailraceError
from tailrace.model import draft
from tailrace.model.draft import Draft
from tailrace.model.run import CANARY_AGENT_PREFIX, Lease, RunState
from tailrace.store.doorbell import Doorbell, Ring
from tailrace.store.events import Events, RunAppend
from tailrace.store.health import Health
from tailrace.store.leases import Leases
from tailrace.upkeep.sse import RUNS, Listener

TRACES = 5
# Twice what polling takes where wake-ups and the bus are dead: half a second the outbox, one the stream.
ARRIVAL_SECONDS = 3.0
# After the first event that did not arrive there is no reason to wait as long for the others, but longer than a poll.
NEXT_ARRIVAL_SECONDS = 1.5
END_SECONDS = 5.0
LEASE_SECONDS = 60.0
REMOVE_SECONDS = 5.0
# Far beyond what a walk takes.
LEFT_SECONDS = 600.0


class CanaryLost(TailraceError):
    """Somebody else has the canary; it must not be walked any further."""


@dataclass(slots=True)
class Walk:
    """How the canary fared.  Times are medians in milliseconds, None for a hop that it did not make.

    ``append_ms`` is one statement; ``outbox_ms`` from the commit to the mark, by the clock of Postgres; ``bus_ms`` and
    ``sse_ms`` from the append's answer to the arrival here.  ``not_walked`` says why there was no walk; ``trouble``
    what the stream met; ``kept_back`` that published events arrived only once more had followed.
    """

    append_ms: float | None = None
    outbox_ms: float | None = None
    bus_ms: float | None = None
    sse_ms: float | None = None
    published: int = 0
    arrived: int = 0
    encoding: str | None = None
    trouble: str | None = None
    not_walked: str | None = None
    kept_back: bool = False
    notes: list[str] = field(default_factory=list)


class Canary:
    """Walks once.

    :param bus: None where this process cannot hear the bus.
    :param http: reaches the server, with its root as the base URL and the key that it wants.
    """

    def __init__(
        self,
        *,
        health: Health,
        events: Events,
        leases: Leases,
        doorbell: Doorbell,
        bus: Bus | None,
        http: httpx2.AsyncClient,
    ) -> None:
        self._health = health
        self._events = events
        self._leases = leases
        self._doorbell = doorbell
        self._bus = bus
        self._http = http
        self._run_id = f"canary-{secrets.token_hex(12)}"
        self._agent = f"{CANARY_AGENT_PREFIX}{self._run_id}"
        self._appended: dict[int, float] = {}
        self._heard: dict[int, float] = {}

    async def walk(self) -> Walk:
        """Start the canary, walk it to its end, remove it, and return how it fared."""
        found = Walk()
        await self._remove_left()
        try:
            await self._leases.record_agents([self._agent])
            # Tables that do not fit the statements are a finding here, and would be a fault of the API there.
            await self._claim()
            found.not_walked = await self._start()
            if found.not_walked is None:
                await self._execute(found)
        except CanaryLost as lost:
            found.not_walked = str(lost)
        finally:
            await self._remove()
        return found

    async def _start(self) -> str | None:
        """Start the run through the API; return why that was not possible."""
        body = {"agent": self._agent, "runId": self._run_id}
        try:
            answer = await self._http.post(RUNS, json=body)
        except (httpx2.HTTPError, OSError, AttributeError) as error:
            return f"no server answers: {str(error) or type(error).__name__}"
        match answer.status_code:
            case httpx2.codes.CREATED:
                return None
            case httpx2.codes.UNAUTHORIZED | httpx2.codes.FORBIDDEN:
                return f"the server answered {answer.status_code}: it takes a key with runs:read and runs:write"
            case httpx2.codes.NOT_FOUND:
                return "the server does not know the canary: it works on another database, or the URL is not its root"
            case _:
                return f"the server answered the start of a run with {answer.status_code}"

    async def _execute(self, found: Walk) -> None:
        leases = await self._claim()
        if not leases:
            found.not_walked = "the server started the canary in another database than that of the settings"
            return
        listener = Listener(self._http, self._run_id)
        async with self._listening(listener):
            await self._emit(leases[0].epoch, listener, found)
        self._conclude(listener, found)

    async def _claim(self) -> list[Lease]:
        return await self._leases.claim(worker="doctor", agents=[self._agent], limit=1, lease_seconds=LEASE_SECONDS)

    async def _emit(self, epoch: int, listener: Listener, found: Walk) -> None:
        taken = []
        begins = await listener.until(lambda: 1 in listener.arrived, ARRIVAL_SECONDS)
        patience = ARRIVAL_SECONDS if begins else NEXT_ARRIVAL_SECONDS
        if not begins and not await self._health.canary_times(self._run_id):
            patience = 0.0  # Nothing is published: there is nothing to wait for.
        late = set()
        for seq in range(2, TRACES + 2):
            begun = time.perf_counter()
            await self._append(epoch, seq, draft.debug_trace("doctor.canary", _now_ms()))
            taken.append(time.perf_counter() - begun)
            if not await listener.until(lambda seq=seq: seq in listener.arrived, patience):  # type: ignore[misc] # its default
                patience = min(patience, NEXT_ARRIVAL_SECONDS)
                late.add(seq)
        published = await self._health.canary_times(self._run_id)
        # Published, and not to be seen before the next one, or the end, pushed it on.  What comes with the head passes
        # proxies that keep back what follows; and one event that is late is no proxy's doing.
        late &= published.keys()
        silent = len(late) > TRACES // 2 and listener.trouble is None
        end = TRACES + 2
        await self._append(epoch, end, draft.run_finished(_now_ms()), RunState.FINISHED)
        await listener.until(lambda: end in listener.arrived, END_SECONDS if published else NEXT_ARRIVAL_SECONDS)
        found.kept_back = silent and not late.isdisjoint(listener.arrived)
        if silent and not found.kept_back:
            listener.trouble = "the events did not arrive, not even after the run had ended"
        published = await self._health.canary_times(self._run_id)
        found.append_ms = statistics.median(taken) * 1000
        found.published = len(published)
        traced = [seconds for seq, seconds in published.items() if 1 < seq < end]
        found.outbox_ms = statistics.median(traced) * 1000 if traced else None

    async def _append(self, epoch: int, seq: int, event: Draft, state: RunState | None = None) -> None:
        heads = await self._events.append([RunAppend(self._run_id, epoch, seq, [event], state=state)])
        if (head := heads.get(self._run_id)) is None or head.epoch != epoch or head.last_seq != seq - 1:
            raise CanaryLost("the canary was taken over, or removed by somebody else")
        self._appended[seq] = asyncio.get_running_loop().time()
        self._doorbell.ring(Ring.EVENTS, self._run_id)

    def _conclude(self, listener: Listener, found: Walk) -> None:
        found.encoding, found.trouble = listener.encoding, listener.trouble
        found.arrived = len(listener.arrived)
        found.bus_ms, found.sse_ms = self._median_ms(self._heard), self._median_ms(listener.arrived)

    def _median_ms(self, times: dict[int, float]) -> float | None:
        taken = [times[seq] - at for seq, at in self._appended.items() if seq in times]
        return max(0.0, statistics.median(taken) * 1000) if taken else None

    @asynccontextmanager
    async def _listening(self, listener: Listener) -> AsyncIterator[None]:
        """Listen to the bus and to the stream inside the block."""
        if self._bus is not None:
            self._bus.attach(self._on_published, lambda: None)
            await self._bus.subscribe(self._run_id)
        reading = asyncio.create_task(listener.read())
        try:
            yield
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
            if self._bus is not None:
                await self._bus.unsubscribe(self._run_id)

    def _on_published(self, published: Published) -> None:
        now = asyncio.get_running_loop().time()
        for seq in range(1, published.last_seq + 1):
            self._heard.setdefault(seq, now)

    async def _remove(self) -> None:
        """Remove the canary, also when the doctor is being stopped; what fails here the next doctor does."""
        removing = asyncio.ensure_future(self._health.remove_canaries([self._run_id], CANARY_AGENT_PREFIX))
        try:
            async with asyncio.timeout(REMOVE_SECONDS):
                await asyncio.shield(removing)
        except (TimeoutError, TailraceError):
            removing.cancel()
        except asyncio.CancelledError:
            await asyncio.wait({removing}, timeout=REMOVE_SECONDS)
            raise

    async def _remove_left(self) -> None:
        left = await self._health.canaries_left(CANARY_AGENT_PREFIX, LEFT_SECONDS)
        if left:
            await self._health.remove_canaries(left, CANARY_AGENT_PREFIX)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
