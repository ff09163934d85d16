"""The hub: one per process.  It keeps a channel for each run that somebody watches, and feeds it.

    bus ──offer──▶ Channel ◀──offer── fill_once (what the bus did not bring, one read for all runs)
                      ▲
                      └──learn── check_tails_once (at every heartbeat, and whenever the bus may have lost something)

Attach: subscribe and wait for the acknowledgement, then ask the database how far the run is published, then read.  In
the other order, what is published between the two is lost; it is the commonest bug of systems of this kind.  The outbox
hands events over a moment before the commit that marks them: who attaches in that moment hears of them neither from the
bus nor from the database, so a new channel is compared once more a little later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tailrace.bus.bus import Bus, Published
from tailrace.errors import RunNotFound
from tailrace.read.asking import Asking
from tailrace.read.channel import Channel
from tailrace.read.crowd import Crowd
from tailrace.read.pages import PAGES_AT_ONCE
from tailrace.store.events import Events, Tail

# Runs in one tail query; runs in one fill and events of each: what a fill holds in memory is bounded by both and the
# largest event.
QUERY_MAX_RUNS = 500
# From the hand-over to the bus until the marks are committed takes some ten milliseconds, and less than this unless
# Postgres is in trouble or has a flood to mark; then the tails are compared at the heartbeat, as ever.
SETTLE_SECONDS = 0.1
FILL_MAX_RUNS = 8
FILL_MAX_EVENTS = 100


class Watched:
    """A channel with its watchers: those in the crowd, and the tasks that wait for ``changed``.

    ``changed`` is set and replaced whenever there may be something new.

    :param gate: see ``read.pages``.
    :param still_holds: see ``read.crowd``.
    """

    __slots__ = ("changed", "channel", "crowd", "entry", "gate", "watchers")

    def __init__(self, run_id: str, gate: asyncio.Semaphore, still_holds: Callable[[Hashable], bool]) -> None:
        self.channel = Channel(run_id)
        self.crowd = Crowd(self.channel, still_holds)
        self.changed = asyncio.Event()
        self.entry = asyncio.Lock()
        self.gate = gate
        self.watchers = 0

    def wake(self) -> None:
        """Tell every watcher."""
        self.changed.set()
        self.changed = asyncio.Event()
        self.crowd.news()


class Hub:
    """Channels of the watched runs, fed by the bus and, where it fails, by the database.

    :param still_holds: whether the key of a stream's principal still counts.
    """

    def __init__(self, bus: Bus, events: Events, *, still_holds: Callable[[Any], bool] = lambda _: True) -> None:
        self._bus = bus
        self._events = events
        self._asking = Asking(events)
        self._still_holds = still_holds
        self._gate = asyncio.Semaphore(PAGES_AT_ONCE)
        self._leaving: set[asyncio.Task[None]] = set()
        self._watched: dict[str, Watched] = {}
        self._to_fill: set[str] = set()
        self._new: set[str] = set()
        self.closing = False
        self.fill = asyncio.Event()
        self.check_tails = asyncio.Event()
        self.check_new = asyncio.Event()
        bus.attach(self._published, self.check_tails.set)

    @property
    def watched_runs(self) -> int:
        """How many runs have a watcher."""
        return len(self._watched)

    @asynccontextmanager
    async def watch(self, run_id: str, *, tenant: str | None = None) -> AsyncIterator[tuple[Watched, Tail]]:
        """Attach to a run and yield its channel and its tail as of after the subscription.

        :param tenant: whose the run must be; None for anybody's.
        :raises RunNotFound: there is no such run, or it is another tenant's.
        :raises Unavailable: the bus or the database is away.
        """
        watched, tail = await self.attach(run_id, tenant=tenant)
        try:
            yield watched, tail
        finally:
            await self.leave(watched)

    async def attach(self, run_id: str, *, tenant: str | None = None) -> tuple[Watched, Tail]:
        """Attach to a run until ``leave`` or ``let_go``; as ``watch``, for those who stay longer than a block."""
        watched = await self._enter(run_id)
        try:
            tail = await self._asking.tail(run_id)
            if tail is None or tenant not in (None, tail.tenant):
                raise RunNotFound(f"there is no run {run_id!r}")
            self._learn(watched, tail)
        except BaseException:
            await self.leave(watched)
            raise
        return watched, tail

    async def leave(self, watched: Watched) -> None:
        """Give back what ``attach`` gave; the last one takes the channel with it."""
        async with watched.entry:
            watched.watchers -= 1
            if watched.watchers == 0:
                run_id = watched.channel.run_id
                del self._watched[run_id]
                self._to_fill.discard(run_id)
                self._new.discard(run_id)
                await self._bus.unsubscribe(run_id)

    def let_go(self, watched: Watched) -> None:
        """Give back what ``attach`` gave, from where nothing can be awaited."""
        if watched.watchers > 1:
            watched.watchers -= 1
            return
        task = asyncio.get_running_loop().create_task(self.leave(watched))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def close(self) -> None:
        """End every stream, now and from now on."""
        self.closing = True
        for watched in list(self._watched.values()):
            watched.channel.closed = True
            watched.wake()

    async def fill_once(self) -> bool:
        """Read from the database what channels miss; return whether some may still miss more."""
        wanted: dict[str, tuple[int, int]] = {}
        for run_id in list(self._to_fill):
            watched = self._watched.get(run_id)
            missing = watched.channel.missing if watched is not None else None
            if missing is None:
                self._to_fill.discard(run_id)
            elif len(wanted) < FILL_MAX_RUNS:
                wanted[run_id] = missing
        if not wanted:
            return False
        for run_id, events in (await self._events.of_many(wanted, FILL_MAX_EVENTS)).items():
            watched = self._watched.get(run_id)
            if watched is None:
                continue
            if events:
                watched.channel.offer(events[-1].seq, events)
            # The same is missing as before: a row that is not there will not come by asking again at once; the next
            # news or tail check asks again.
            if watched.channel.missing == wanted[run_id]:
                self._to_fill.discard(run_id)
            watched.wake()
        return bool(self._to_fill)

    async def check_tails_once(self) -> bool:
        """Compare every channel with the database; return False, for there is nothing to do again at once."""
        await self._check(list(self._watched))
        return False

    async def check_new_once(self) -> bool:
        """Compare the channels that have just been made with the database, a moment after."""
        if not self._new:
            return False
        # Those that come meanwhile will not have settled when these have: they are the next turn's.
        new, self._new = self._new, set()
        try:
            await asyncio.sleep(SETTLE_SECONDS)
            await self._check(sorted(new & self._watched.keys()))
        except BaseException:
            self._new |= new & self._watched.keys()
            raise
        return bool(self._new)

    async def _check(self, run_ids: Sequence[str]) -> None:
        for start in range(0, len(run_ids), QUERY_MAX_RUNS):
            asked = run_ids[start : start + QUERY_MAX_RUNS]
            tails = await self._events.tails(asked)
            for run_id in asked:
                watched = self._watched.get(run_id)
                if watched is None:
                    continue
                if run_id in tails:
                    self._learn(watched, tails[run_id])
                else:
                    watched.channel.closed = True  # The run was removed; its streams end.
                    watched.wake()

    async def poll_once(self) -> bool:
        """Compare every channel with the database while the bus brings nothing of what others publish."""
        return False if self._bus.hearing else await self.check_tails_once()

    def _published(self, published: Published) -> None:
        watched = self._watched.get(published.run_id)
        if watched is None:
            return
        if watched.channel.offer(published.last_seq, published.events):
            watched.wake()
        self._fill_if_missing(watched)

    def _learn(self, watched: Watched, tail: Tail) -> None:
        watched.channel.learn(tail.published_seq)
        self._fill_if_missing(watched)

    def _fill_if_missing(self, watched: Watched) -> None:
        if watched.channel.missing is not None:
            self._to_fill.add(watched.channel.run_id)
            self.fill.set()

    async def _enter(self, run_id: str) -> Watched:
        while True:
            watched = self._watched.get(run_id)
            if watched is None:
                watched = self._watched[run_id] = Watched(run_id, self._gate, self._still_holds)
            async with watched.entry:
                if self._watched.get(run_id) is not watched:
                    continue  # The last watcher left while we waited.
                if watched.watchers == 0:
                    try:
                        await self._bus.subscribe(run_id)
                    except BaseException:
                        del self._watched[run_id]
                        raise
                    self._new.add(run_id)
                    self.check_new.set()
                watched.channel.closed = self.closing
                watched.watchers += 1
                return watched
