"""The line: what waits to be appended, run by run.  Pure: no I/O, no tasks but the futures of those who wait.

A log is in line, in flight, or neither when nothing of it waits.  Its calls keep their order; the logs take turns, so
that one flooding run holds the others up by a bounded number of events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

from tailrace.errors import TailraceError
from tailrace.model.draft import Draft
from tailrace.model.run import RunState

# A statement of 1,000 rows takes a few milliseconds; a longer one makes the first of the batch wait for the last.
BATCH_MAX_EVENTS = 1000
BATCH_MAX_BYTES = 4 * 2**20
# Most of one run in one batch, but for a single call that brings more.
RUN_MAX_EVENTS = 500
# What may wait: agents that emit faster than Postgres commits are held back here.
WAITING_MAX_EVENTS = 10_000
WAITING_MAX_BYTES = 32 * 2**20
# A rough size of the columns beside data.
EVENT_OVERHEAD_BYTES = 100


class Call:
    """One call of ``append``: events with their first seq, and the future that its caller awaits."""

    __slots__ = ("done", "drafts", "first_seq", "output", "size", "state", "step")

    def __init__(
        self,
        first_seq: int,
        drafts: Sequence[Draft],
        step: tuple[str, str] | None,
        state: RunState | None,
        output: str | None,
        done: asyncio.Future[int],
    ) -> None:
        self.first_seq = first_seq
        self.drafts = drafts
        self.step = step
        self.state = state
        self.output = output
        self.done = done
        size = len(output or "") + (len(step[1]) if step is not None else 0)
        for draft in drafts:
            size += EVENT_OVERHEAD_BYTES + len(draft.data or "")
        self.size = size

    @property
    def last_seq(self) -> int:
        """The seq of its last event."""
        return self.first_seq + len(self.drafts) - 1


class RunLog:
    """The writing end of one run's log: its epoch, the last seq minted under it, and whether that one ends it."""

    __slots__ = ("ended", "epoch", "in_line", "last_seq", "refusal", "run_id", "waiting")

    def __init__(self, run_id: str, *, epoch: int, last_seq: int) -> None:
        self.run_id = run_id
        self.epoch = epoch
        self.last_seq = last_seq
        self.ended = False
        self.refusal: TailraceError | None = None
        self.waiting: deque[Call] = deque()
        # In line or in flight: the first call puts the log there, the answer to the last one takes it out.
        self.in_line = False


Batch = list[tuple[RunLog, list[Call]]]


class Line:
    """The logs of which something waits, in the order of their turns, and how much waits in all."""

    def __init__(self) -> None:
        self._logs: deque[RunLog] = deque()
        self._in_flight: set[str] = set()
        self._events = 0
        self._bytes = 0
        self.room = asyncio.Event()
        self.room.set()

    def __len__(self) -> int:
        return len(self._logs)

    def add(self, log: RunLog, call: Call) -> None:
        """Put a call behind those of its log."""
        log.waiting.append(call)
        if not log.in_line:
            log.in_line = True
            self._logs.append(log)
        self._count(len(call.drafts), call.size)

    def take(self, runs_max: int) -> Batch:
        """Take the next batch of at most ``runs_max`` runs; each is in flight until ``leave``."""
        batch: Batch = []
        events = size = 0
        for _ in range(min(runs_max, len(self._logs))):
            if events >= BATCH_MAX_EVENTS or size >= BATCH_MAX_BYTES:
                break
            log = self._logs.popleft()
            if log.run_id in self._in_flight:
                # A run that this worker lost and got again has two logs; merged, one epoch would vouch for both.
                self._logs.append(log)
                continue
            calls, run_events, run_size = _take(log, min(RUN_MAX_EVENTS, BATCH_MAX_EVENTS - events))
            events += run_events
            size += run_size
            self._in_flight.add(log.run_id)
            batch.append((log, calls))
        self._count(-events, -size)
        return batch

    def leave(self, log: RunLog) -> None:
        """Take a log out of flight; it goes to the end of the line if more of it waits."""
        self._in_flight.discard(log.run_id)
        log.in_line = bool(log.waiting)
        if log.in_line:
            self._logs.append(log)

    def refuse_waiting(self, log: RunLog, refusal: TailraceError) -> None:
        """Refuse what waits of a log in flight."""
        refuse(log.waiting, refusal)
        self._count(-sum(len(call.drafts) for call in log.waiting), -sum(call.size for call in log.waiting))
        log.waiting.clear()

    def refuse_all(self, refusal: TailraceError) -> None:
        """Refuse everything that waits in line, and hold nobody back any more."""
        for log in self._logs:
            refuse(log.waiting, refusal)
        self._logs.clear()
        self.room.set()

    def _count(self, events: int, size: int) -> None:
        self._events += events
        self._bytes += size
        if self._events < WAITING_MAX_EVENTS and self._bytes < WAITING_MAX_BYTES:
            self.room.set()
        else:
            self.room.clear()


def refuse(calls: Iterable[Call], refusal: TailraceError) -> None:
    """Answer those who wait with an error."""
    for call in calls:
        if not call.done.done():
            # Each waiter gets an exception of its own: one that several tasks raise grows their tracebacks together.
            call.done.set_exception(type(refusal)(str(refusal)))


def _take(log: RunLog, events_max: int) -> tuple[list[Call], int, int]:
    """Take calls of a log, at least one, and return them with their events and bytes."""
    calls: list[Call] = []
    events = size = 0
    while log.waiting and (not calls or (events < events_max and size < BATCH_MAX_BYTES)):
        call = log.waiting.popleft()
        calls.append(call)
        events += len(call.drafts)
        size += call.size
    return calls, events, size
