"""Publish: the outbox, the only way from the log to the bus.

One pass: lock outbox rows, read their events from ``next_seq``, mark them and move the cursors, hand them to the bus in
order, commit.  The row lock makes several publishers safe: a run is published by one at a time, in seq order.  A crash
before the commit takes the marks back and the events are published again, which readers drop by seq.  A crash is
therefore never a loss; committing the marks before the bus has the events would make it one.

Work is found in three ways.  What this process has committed itself is handed to it (``committed``) and not read back;
it is published where the run's cursor stands right before it, else the run is hinted.  Where this process has set that
cursor itself, nobody else can have published in between, so the events go to the bus at once and are marked after it,
in one statement (docs/adr/0018); should another publisher come in between all the same, both hand the same events over,
in order, and one marks them.  A terminal event never goes ahead of its mark: whoever sees a stream end finds the run
published in the tables, but for the commit.  Hints name the runs that others
have appended to and are looked up by key.  The poll (``TAILRACE_OUTBOX_POLL_MS``) looks at every open run, for hints
that were lost with their process; runs whose terminal event is published are not open, so it costs what is in progress
and not what has ever been.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from tailrace.bus.bus import Bus, Published
from tailrace.errors import BusUnavailable
from tailrace.store.events import RunAppend
from tailrace.store.outbox import Outbox, OutboxTransaction, Unpublished
from tailrace.telemetry import EventsPublished, OutboxGap, Telemetry
from tailrace.write.fresh import Fresh

BATCH_MAX_RUNS = 100
# Most events of one run in one pass, so that a flooding run does not starve the others; with large events fewer, so
# that a pass reads about this many bytes.
RUN_MAX_EVENTS = 200
PASS_BYTES = 8 * 2**20
# More hints than this are forgotten for one look at everything.
HINTS_MAX = 10_000
# Behind a pass with so many runs the next one waits for this long, so that it finds more of each: a pass costs what its
# runs cost, and with 40 events in it half as much again an event, here and in Postgres, as with 100 (measured). At the
# rates of people who watch, nothing waits; nor does a single run that floods.
PACE_MIN_RUNS = 32
PACE_SECONDS = 0.016
# Runs in progress whose cursors are remembered.
CURSORS_MAX = 10_000
# A hinted run that another publisher holds is looked at once more after this long, sooner than the poll would.
HELD_RETRY_SECONDS = 0.01


class Publisher:
    """Publishes what is persisted.  ``publish_once`` and ``sweep_once`` are run by duties and never overlap."""

    def __init__(self, outbox: Outbox, bus: Bus, telemetry: Telemetry, *, bus_timeout_seconds: float) -> None:
        self._outbox = outbox
        self._bus = bus
        self._telemetry = telemetry
        self._bus_timeout_seconds = bus_timeout_seconds
        self._fresh = Fresh()
        # Where the cursors of runs stand that this process was the last to move, as far as it knows.
        self._cursors: dict[str, int] = {}
        self._hints: set[str] = set()
        self._looked_twice: set[str] = set()
        self._stuck: set[tuple[str, int]] = set()
        self._events_max = RUN_MAX_EVENTS
        self._one_pass = asyncio.Lock()
        self.work = asyncio.Event()
        self.sweep = asyncio.Event()

    def hint(self, run_ids: Iterable[str]) -> None:
        """Say that these runs have events to publish."""
        self._hints.update(run_ids)
        if len(self._hints) > HINTS_MAX:
            self._hints.clear()
            self.sweep.set()
        self.work.set()

    def committed(self, appends: Iterable[RunAppend]) -> None:
        """Take events that this process has just committed."""
        self.hint([add.run_id for add in appends if not self._fresh.add(add)])

    async def publish_once(self) -> bool:
        """Publish what is fresh and events of hinted runs; return whether there is reason to call again at once."""
        published = await self._publish_fresh()
        await self._publish_hinted()
        if published >= PACE_MIN_RUNS:
            await asyncio.sleep(PACE_SECONDS)
        return bool(self._fresh or self._hints)

    async def sweep_once(self) -> bool:
        """Publish events of any open run, hinted or not; return whether there is reason to call again at once."""
        published, has_more = await self._publish_read(None)
        return has_more or len(published) == BATCH_MAX_RUNS

    async def _publish_fresh(self) -> int:
        batch = self._fresh.take(runs_max=BATCH_MAX_RUNS, run_events_max=RUN_MAX_EVENTS, bytes_max=PASS_BYTES)
        if not batch:
            return 0
        missed = {run.run_id for run in batch}
        ours: list[Unpublished] = []
        others: list[Unpublished] = []
        for run in batch:
            is_ours = self._cursors.get(run.run_id) == run.next_seq and not run.is_terminal
            (ours if is_ours else others).append(run)

        async def advance(transaction: OutboxTransaction) -> list[Unpublished]:
            taken = await transaction.advance_from(others)
            return [run for run in others if run.run_id in taken]

        try:
            if ours:
                missed -= await self._pass_ahead(ours)
            if others:
                missed -= {run.run_id for run in await self._pass(advance)}
        finally:
            # Runs whose cursor stands elsewhere, or whose row another publisher holds; after an error, all of them.
            for run_id in missed:
                self._cursors.pop(run_id, None)
            if missed:
                self.hint(missed)
        return len(batch)

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
        self._look_again(hints - {run.run_id for run in published})

    async def _publish_read(self, hints: Sequence[str] | None) -> tuple[list[Unpublished], bool]:
        """Publish what the database holds; return it, and whether these runs have more already."""
        taken: list[Unpublished] = []
        more: list[str] = []

        async def advance(transaction: OutboxTransaction) -> list[Unpublished]:
            taken.extend(
                await transaction.take(hints, self._fresh.run_ids, runs_max=BATCH_MAX_RUNS, events_max=self._events_max)
            )
            ready = [run for run in taken if run.events]
            if ready:
                more.extend(await transaction.advance(ready))
            if stuck := {run.run_id for run in taken} - {run.run_id for run in ready}:
                await transaction.defer(sorted(stuck))
            return ready

        ready = await self._pass(advance)
        for run in ready:
            self._fresh.was_read(run.run_id, run.last_seq)
        self._report_gaps(taken)
        self._fit(ready)
        if unread := [run_id for run_id in more if run_id not in self._fresh]:
            self.hint(unread)
        return ready, bool(unread)

    async def _pass_ahead(self, ready: Sequence[Unpublished]) -> set[str]:
        """Hand over what follows our own cursors, then mark it; return the runs that were marked."""
        async with self._one_pass:
            await self._hand_over(ready)
            now_ms = time.time() * 1000
            taken = await self._outbox.advance_from(ready)
            marked = [run for run in ready if run.run_id in taken]
            self._published(marked, now_ms)
        return taken

    async def _pass(self, advance: Callable[[OutboxTransaction], Awaitable[list[Unpublished]]]) -> list[Unpublished]:
        """Lock, mark and advance, hand over, commit; return what was published."""
        async with self._one_pass:
            async with self._outbox.transaction() as transaction:
                ready = await advance(transaction)
                if ready:
                    await self._hand_over(ready)
            self._published(ready, time.time() * 1000)
        return ready

    def _published(self, ready: Sequence[Unpublished], now_ms: float) -> None:
        """Remember where the cursors stand, and tell."""
        if not ready:
            return
        for run in ready:
            self._cursors.pop(run.run_id, None)
            if not run.is_terminal:
                self._cursors[run.run_id] = run.last_seq + 1
        while len(self._cursors) > CURSORS_MAX:
            del self._cursors[next(iter(self._cursors))]
        self._telemetry.tell(EventsPublished(ready, now_ms))

    async def _hand_over(self, ready: Sequence[Unpublished]) -> None:
        """Give the bus a batch; it is published then, whether or not other processes could be told (``LocalFirst``)."""
        try:
            # The rows are locked meanwhile: a bus that hangs must not hold them until the session is cut.
            async with asyncio.timeout(self._bus_timeout_seconds):
                await self._bus.publish([Published(run.run_id, run.last_seq, run.events) for run in ready])
        except TimeoutError:
            raise BusUnavailable(f"the bus did not take a batch within {self._bus_timeout_seconds} s") from None

    def _report_gaps(self, taken: Sequence[Unpublished]) -> None:
        for run in taken:
            expected = run.next_seq + len(run.events)
            if run.gap_at is not None and self._is_news(run.run_id, expected):
                self._telemetry.tell(OutboxGap(run.run_id, expected, run.gap_at))

    def _is_news(self, run_id: str, seq: int) -> bool:
        """Whether this run was not yet said to be stuck here: it stays so until somebody looks."""
        if (run_id, seq) in self._stuck or len(self._stuck) >= HINTS_MAX:
            return False
        self._stuck.add((run_id, seq))
        return True

    def _fit(self, ready: Sequence[Unpublished]) -> None:
        events = sum(len(run.events) for run in ready)
        if events:
            size = sum(len(event.data or "") for run in ready for event in run.events)
            fitting = PASS_BYTES * events // (BATCH_MAX_RUNS * max(1, size))
            self._events_max = min(RUN_MAX_EVENTS, max(2, fitting))

    def _look_again(self, missing: set[str]) -> None:
        again = missing - self._looked_twice
        self._looked_twice = again
        if again:
            asyncio.get_running_loop().call_later(HELD_RETRY_SECONDS, self.hint, again)
