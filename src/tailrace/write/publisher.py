"""Publish: the outbox, the only way from the log to the bus.

One pass: lock outbox rows, read their events from ``next_seq``, mark them and move the cursors, hand them to the bus in
order, commit.  The row lock makes several publishers safe: a run is published by one at a time, in seq order.  A crash
before the commit takes the marks back and the events are published again, which readers drop by seq.  A crash is
therefore never a loss; committing the marks before the bus has the events would make it one.

Work is found in three ways.  What this process has committed itself is handed to it (``committed``) and not read back;
it is published where the run's cursor stands right before it, else the run is hinted.  Where this process has set that
cursor itself, nobody else can have published in between, so the events go to the bus at once (``hand_over_once``), also
while a pass is under way, and a later pass marks them (``write.owed``, docs/adr/0018); should another publisher come in
between all the same, both hand the same events over, in order, and one marks them.  A terminal event never goes ahead
of its mark: whoever sees a stream end finds the run published in the tables, but for the commit.  Hints name the runs
that others have appended to and are looked up by key.  The poll (``TAILRACE_OUTBOX_POLL_MS``) looks at every open run,
for hints that were lost with their process; runs whose terminal event is published are not open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

from tailrace.bus.bus import Bus, Published
from tailrace.errors import BusUnavailable
from tailrace.store.events import RunAppend
from tailrace.store.outbox import Outbox, OutboxTransaction, Unpublished
from tailrace.telemetry import EventsPublished, Telemetry
from tailrace.write.fresh import Fresh
from tailrace.write.gaps import Gaps
from tailrace.write.owed import Owed

BATCH_MAX_RUNS = 100
# Most events of one run in one pass, so that a flooding run does not starve the others; with large events fewer, so
# that a pass reads about this many bytes.
RUN_MAX_EVENTS = 200
PASS_BYTES = 8 * 2**20
# More hints than this are forgotten for one look at everything.
HINTS_MAX = 10_000
# Behind a hand-over of so many runs the next one waits for this long, so that it finds more of each: it costs what its
# runs cost, and with 40 events in it half as much again an event, here and in Postgres, as with 100 (measured). At the
# rates of people who watch, nothing waits; nor does a single run that floods (docs/adr/0018).
PACE_MIN_RUNS = 32
PACE_SECONDS = 0.024
# Marks that nobody waits for come together for this long, so that several hand-overs share a statement, which costs a
# third of a millisecond before its first row. Far less than a new channel settles for (read.hub.SETTLE_SECONDS).
MARK_SECONDS = 0.01
# Runs in progress whose cursors are remembered.
CURSORS_MAX = 10_000
# A hinted run that another publisher holds is looked at once more after this long, sooner than the poll would.
HELD_RETRY_SECONDS = 0.01


class Publisher:
    """Publishes what is persisted.

    Duties run ``hand_over_once``, which needs no database, ``publish_once`` and ``sweep_once``, which never overlap.
    """

    def __init__(self, outbox: Outbox, bus: Bus, telemetry: Telemetry, *, bus_timeout_seconds: float) -> None:
        self._outbox = outbox
        self._bus = bus
        self._telemetry = telemetry
        self._bus_timeout_seconds = bus_timeout_seconds
        self._fresh = Fresh()
        self._owed = Owed()
        # Where the cursors of runs stand that this process was the last to move, as far as it knows, or will have moved
        # once what it has handed over is marked.
        self._cursors: dict[str, int] = {}
        self._hints: set[str] = set()
        # Runs whose cursor proved to stand elsewhere: what is fresh of them stays until the database was read up to it.
        self._lost: set[str] = set()
        self._looked_twice: set[str] = set()
        self._gaps = Gaps(telemetry)
        self._events_max = RUN_MAX_EVENTS
        self._one_pass = asyncio.Lock()
        self._handing = asyncio.Lock()
        self._rested_at = 0.0
        self._marked_at = 0.0
        self._urgent = asyncio.Event()
        self.news = asyncio.Event()
        self.work = asyncio.Event()
        self.sweep = asyncio.Event()

    @property
    def has_work(self) -> bool:
        """Whether anything in hand is not published, or not marked."""
        return bool(self._fresh or self._owed or self._hints)

    def hint(self, run_ids: Iterable[str]) -> None:
        """Say that these runs have events to publish."""
        self._hints.update(run_ids)
        if len(self._hints) > HINTS_MAX:
            self._hints.clear()
            self._lost.clear()
            self.news.set()  # What is fresh of them may go now.
            self.sweep.set()
        self._urgent.set()
        self.work.set()

    def committed(self, appends: Iterable[RunAppend]) -> None:
        """Take events that this process has just committed."""
        if missed := [add.run_id for add in appends if not self._fresh.add(add)]:
            self.hint(missed)
        self.news.set()

    async def hand_over_once(self) -> bool:
        """Hand over what is fresh where the cursor is our own; the rest is left to ``publish_once``, as the marks are.

        Return whether there is reason to call again at once.
        """
        loop = asyncio.get_running_loop()
        async with self._handing:
            if (rest := self._rested_at - loop.time()) > 0:
                await asyncio.sleep(rest)
            if self._owed.is_full:
                return False  # The pass that takes it says so.
            batch = self._fresh.take(
                runs_max=BATCH_MAX_RUNS, run_events_max=RUN_MAX_EVENTS, bytes_max=PASS_BYTES, but=self._lost
            )
            if not batch:
                return False
            if len(batch) >= PACE_MIN_RUNS:
                self._rested_at = loop.time() + PACE_SECONDS
            ours: list[Unpublished] = []
            others: list[Unpublished] = []
            for run in batch:
                is_ours = self._cursors.get(run.run_id) == run.next_seq and not run.is_terminal
                (ours if is_ours else others).append(run)
            if others:
                self._owed.add_others(others)
                self._urgent.set()
                self.work.set()
            if ours:
                await self._hand_over_ahead(ours)
        return bool(self._fresh)

    async def publish_once(self) -> bool:
        """Mark what was handed over, publish what waits with it and events of hinted runs.

        Return whether there is reason to call again at once.
        """
        await self._rest()
        await self._publish_owed()
        await self._publish_hinted()
        return bool(self._owed or self._hints)

    async def sweep_once(self) -> bool:
        """Publish events of any open run, hinted or not; return whether there is reason to call again at once."""
        published, has_more = await self._publish_read(None)
        return has_more or len(published) == BATCH_MAX_RUNS

    async def _hand_over_ahead(self, ours: list[Unpublished]) -> None:
        """Hand over what follows our own cursors: it will be marked."""
        # Small parts first: encoding and writing 200 events takes a millisecond, which nobody else need wait for.
        ours.sort(key=lambda run: len(run.events))
        try:
            await self._hand_over(ours)
        except BaseException:
            self._miss({run.run_id for run in ours})
            raise
        self._remember(ours)
        self._owed.add_ahead(ours, time.time() * 1000)
        if self._owed.is_full:
            self._urgent.set()
        self.work.set()

    async def _rest(self) -> None:
        """Let marks come together, unless something waits for this pass."""
        rest = self._marked_at + MARK_SECONDS - asyncio.get_running_loop().time()
        if rest > 0 and self._owed and not self._owed.is_urgent and not self._hints:
            self._urgent.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._urgent.wait()

    async def _publish_owed(self) -> None:
        if not self._owed:
            return
        async with self._one_pass:
            # Taken under the lock: a sweep that holds it leaves out what is owed.
            due = self._owed.take()
            taken: set[str] = set()
            marked: set[str] = set()

            async def advance(transaction: OutboxTransaction) -> list[Unpublished]:
                taken.update(await transaction.advance_from(due.batch))
                return [run for run in due.others if run.run_id in taken]

            try:
                if due.others:
                    await self._pass(advance)
                else:
                    taken.update(await self._outbox.advance_from(due.batch))
                marked = taken
                for runs, at_ms in due.ahead:
                    self._tell([run for run in runs if run.run_id in marked], at_ms)
            finally:
                # Runs whose cursor stands elsewhere, or whose row another publisher holds; after an error, all of them.
                self._miss({run.run_id for run in due.batch if run.run_id not in marked} | due.apart)
                self._marked_at = asyncio.get_running_loop().time()
                self.news.set()  # Something may wait for room.

    def _miss(self, run_ids: set[str]) -> None:
        """Look at these runs in the database: their cursors may stand anywhere."""
        for run_id in run_ids:
            self._cursors.pop(run_id, None)
        if run_ids:
            self._lost |= run_ids
            self.hint(run_ids)

    async def _publish_hinted(self) -> None:
        if not self._hints:
            return
        hints = set(list(self._hints)[:BATCH_MAX_RUNS])
        self._hints -= hints
        try:
            published, _ = await self._publish_read(sorted(hints))
        except BaseException:
            self._hints |= hints
            raise
        found = {run.run_id for run in published}
        for run_id in self._lost & hints:
            front = self._fresh.front(run_id)
            if run_id in found and front is not None and self._cursors.get(run_id, front) < front:
                self.hint((run_id,))
            else:
                self._lost.discard(run_id)
        self.news.set()
        self._look_again(hints - found)

    async def _publish_read(self, hints: Sequence[str] | None) -> tuple[list[Unpublished], bool]:
        """Publish what the database holds; return it, and whether these runs have more already."""
        taken: list[Unpublished] = []
        more: list[str] = []

        async def advance(transaction: OutboxTransaction) -> list[Unpublished]:
            in_hand = list({*self._fresh.run_ids, *self._owed.run_ids})
            taken.extend(await transaction.take(hints, in_hand, runs_max=BATCH_MAX_RUNS, events_max=self._events_max))
            ready = [run for run in taken if run.events]
            if ready:
                more.extend(await transaction.advance(ready))
            if stuck := {run.run_id for run in taken} - {run.run_id for run in ready}:
                await transaction.defer(sorted(stuck))
            return ready

        async with self._one_pass:
            ready = await self._pass(advance)
        for run in ready:
            self._fresh.was_read(run.run_id, run.last_seq)
        self._gaps.report(taken)
        self._fit(ready)
        if unread := [run_id for run_id in more if run_id not in self._fresh]:
            self.hint(unread)
        return ready, bool(unread)

    async def _pass(self, advance: Callable[[OutboxTransaction], Awaitable[list[Unpublished]]]) -> list[Unpublished]:
        """Lock, mark and advance, hand over, commit; return what was published."""
        async with self._outbox.transaction() as transaction:
            ready = await advance(transaction)
            if ready:
                await self._hand_over(ready)
        self._remember(ready)
        self._tell(ready, time.time() * 1000)
        return ready

    def _tell(self, ready: Sequence[Unpublished], at_ms: float) -> None:
        if ready:
            self._telemetry.tell(EventsPublished(ready, at_ms))

    def _remember(self, ready: Sequence[Unpublished]) -> None:
        """Remember where the cursors stand."""
        for run in ready:
            self._cursors.pop(run.run_id, None)
            if not run.is_terminal:
                self._cursors[run.run_id] = run.last_seq + 1
        while len(self._cursors) > CURSORS_MAX:
            del self._cursors[next(iter(self._cursors))]

    async def _hand_over(self, ready: Sequence[Unpublished]) -> None:
        """Give the bus a batch; it is published then, whether or not other processes could be told (``LocalFirst``)."""
        try:
            # The rows are locked meanwhile: a bus that hangs must not hold them until the session is cut.
            async with asyncio.timeout(self._bus_timeout_seconds):
                await self._bus.publish([Published(run.run_id, run.last_seq, run.events) for run in ready])
        except TimeoutError:
            raise BusUnavailable(f"the bus did not take a batch within {self._bus_timeout_seconds} s") from None

    def _fit(self, ready: Sequence[Unpublished]) -> None:
        if events := sum(len(run.events) for run in ready):
            size = sum(len(event.data or "") for run in ready for event in run.events)
            fitting = PASS_BYTES * events // (BATCH_MAX_RUNS * max(1, size))
            self._events_max = min(RUN_MAX_EVENTS, max(2, fitting))

    def _look_again(self, missing: set[str]) -> None:
        again = self._looked_twice = missing - self._looked_twice
        if again:
            asyncio.get_running_loop().call_later(HELD_RETRY_SECONDS, self.hint, again)
