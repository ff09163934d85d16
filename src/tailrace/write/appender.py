"""Append: what every run of the process emits goes to Postgres in common commits.

States of an append: waiting -> in flight -> committed, or refused.  While one statement is in flight, everything that
is emitted meanwhile waits and forms the next batch; each ``append`` returns when its commit has.  Batching is what
separates a few thousand events a second from tens of thousands (docs/adr/0003).

Guarantees.  The seq is minted when the append enters the queue, and the statement accepts it only right after the
run's last seq, under the run's own epoch and while it is started; so an event is written once or not at all, whatever
is sent twice.  A batch that fails because the database is away is sent again until it is answered: if the lost answer
was a commit, the run's head shows it.  Runs that are refused fail alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import asyncpg

from tailrace.errors import DatabaseUnavailable, InvalidEvent, LeaseLost, RunTerminated, TailraceError
from tailrace.model.draft import Draft
from tailrace.model.run import TERMINAL_STATES, RunState
from tailrace.store.events import Events, RunAppend, RunHead
from tailrace.telemetry import EventsPersisted, Telemetry

# A statement of 1,000 rows takes a few milliseconds; a longer one makes the first of the batch wait for the last.
BATCH_MAX_EVENTS = 1000
BATCH_MAX_BYTES = 4 * 2**20
# What may wait: agents that emit faster than Postgres commits are held back here.
WAITING_MAX_EVENTS = 10_000
WAITING_MAX_BYTES = 32 * 2**20
# A rough size of the columns beside data.
EVENT_OVERHEAD_BYTES = 100


class RunLog:
    """The writing end of one run's log: its epoch, the last seq minted under it, and whether that one ends it."""

    __slots__ = ("ended", "epoch", "last_seq", "refusal", "run_id")

    def __init__(self, run_id: str, *, epoch: int, last_seq: int) -> None:
        self.run_id = run_id
        self.epoch = epoch
        self.last_seq = last_seq
        self.ended = False
        self.refusal: TailraceError | None = None


@dataclass(slots=True)
class _Waiting:
    """One call of ``append``."""

    log: RunLog
    first_seq: int
    drafts: Sequence[Draft]
    steps: Sequence[tuple[str, int, str]]
    state: RunState | None
    output: str | None
    size: int
    done: asyncio.Future[int]

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.drafts) - 1


class Appender:
    """Group commit for one process; ``flush_once`` is run by one duty, so one statement is in flight at a time."""

    def __init__(self, events: Events, telemetry: Telemetry, *, on_committed: Callable[[Sequence[str]], None]) -> None:
        self._events = events
        self._telemetry = telemetry
        self._on_committed = on_committed
        self._waiting: deque[_Waiting] = deque()
        self._waiting_events = 0
        self._waiting_bytes = 0
        self._batch: list[_Waiting] = []
        self._batch_sent = False
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False
        self.work = asyncio.Event()

    async def append(
        self,
        log: RunLog,
        drafts: Sequence[Draft],
        *,
        step: tuple[str, str] | None = None,
        state: RunState | None = None,
        output: str | None = None,
    ) -> int:
        """Append events to a run and return the last one's seq once they are durable.

        :param step: key and result (JSON text) of a step, kept in the same commit.
        :param state: the terminal state, when the last draft is a terminal event.
        :param output: what the run returned, as JSON text.
        :raises LeaseLost: another worker owns the run.
        :raises RunTerminated: the run has ended.
        :raises InvalidEvent: Postgres refused what our own checks let through.
        """
        while not self._room.is_set():
            await self._room.wait()
        if self._closed:
            raise DatabaseUnavailable("this process is stopping; the event was not written")
        if log.refusal is not None:
            raise type(log.refusal)(str(log.refusal))
        if log.ended:
            # Said by a task that the agent has left behind. In one batch with the terminal event it would take that
            # one down with it.
            raise RunTerminated(f"the run {log.run_id!r} has ended; nothing can be added")
        log.ended = state is not None
        first_seq, last_seq = log.last_seq + 1, log.last_seq + len(drafts)
        log.last_seq = last_seq
        steps = [(step[0], last_seq, step[1])] if step is not None else []
        size = sum(EVENT_OVERHEAD_BYTES + len(draft.data or "") for draft in drafts) + len(output or "")
        size += sum(len(result) for _, _, result in steps)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(log, first_seq, drafts, steps, state, output, size, done))
        self._count(len(drafts), size)
        self.work.set()
        return await done

    async def flush_once(self) -> bool:
        """Commit the next batch; return whether there was one.

        Raise ``DatabaseUnavailable`` when Postgres is away: the batch is kept and is the next call's.
        """
        if not self._batch:
            self._batch = self._next_batch()
            self._batch_sent = False
        if not self._batch:
            return False
        retried, self._batch_sent = self._batch_sent, True
        try:
            await self._commit(self._batch, retried=retried)
        except asyncpg.PostgresError:
            # One run's rows were refused and took the others down with them: each goes alone.
            for alone in _by_run(self._batch).values():
                await self._commit_alone(alone)
                # Answered for good: were the database to go away now, this must not be sent and refused once more.
                self._batch = [waiting for waiting in self._batch if waiting.log is not alone[0].log]
        self._batch = []
        return True

    def close(self) -> None:
        """Fail whatever still waits, and every later append."""
        self._closed = True
        stopping = DatabaseUnavailable("this process is stopping; whether the event was written is not known")
        for waiting in (*self._batch, *self._waiting):
            _refuse(waiting, stopping)
        self._batch = []
        self._waiting.clear()
        self._room.set()

    def _count(self, events: int, size: int) -> None:
        self._waiting_events += events
        self._waiting_bytes += size
        if self._waiting_events < WAITING_MAX_EVENTS and self._waiting_bytes < WAITING_MAX_BYTES:
            self._room.set()
        else:
            self._room.clear()

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        logs: dict[str, RunLog] = {}
        events = size = 0
        while self._waiting and (not batch or (events < BATCH_MAX_EVENTS and size < BATCH_MAX_BYTES)):
            waiting = self._waiting[0]
            if waiting.log.refusal is not None:
                _refuse(waiting, waiting.log.refusal)
            elif logs.setdefault(waiting.log.run_id, waiting.log) is waiting.log:
                batch.append(waiting)
            else:
                # A run that this worker lost and got again has two logs; merged, one epoch would vouch for both.
                break
            self._waiting.popleft()
            events += len(waiting.drafts)
            size += waiting.size
        self._count(-events, -size)
        return batch

    async def _commit_alone(self, batch: list[_Waiting]) -> None:
        try:
            await self._commit(batch, retried=True)
        except asyncpg.PostgresError as error:
            refusal = InvalidEvent(f"Postgres refused the event of run {batch[0].log.run_id!r}: {error}")
            refusal.__cause__ = error
            log = batch[0].log
            later = [waiting for waiting in self._waiting if waiting.log is log]
            for waiting in (*batch, *later):
                _refuse(waiting, refusal)
            # What follows was numbered behind the refused events; the log goes on from where it durably ends, so that
            # the run can still be ended.
            self._waiting = deque(waiting for waiting in self._waiting if waiting.log is not log)
            self._count(-sum(len(waiting.drafts) for waiting in later), -sum(waiting.size for waiting in later))
            log.last_seq = batch[0].first_seq - 1
            log.ended = False

    async def _commit(self, batch: list[_Waiting], *, retried: bool) -> None:
        of_run = _by_run(batch)
        appends = [_merge(calls) for calls in of_run.values()]
        heads = await self._events.append(appends)
        committed = []
        for add in appends:
            calls = of_run[add.run_id]
            refusal = _refusal(add, heads.get(add.run_id), retried=retried)
            if refusal is not None:
                calls[0].log.refusal = refusal
                for waiting in calls:
                    _refuse(waiting, refusal)
                continue
            committed.append(add.run_id)
            for waiting in calls:
                if not waiting.done.done():
                    waiting.done.set_result(waiting.last_seq)
            events = [(seq, str(draft.type)) for seq, draft in enumerate(add.drafts, add.first_seq)]
            self._telemetry.tell(EventsPersisted(add.run_id, events))
        if committed:
            self._on_committed(committed)


def _by_run(batch: Sequence[_Waiting]) -> dict[str, list[_Waiting]]:
    of_run: dict[str, list[_Waiting]] = {}
    for waiting in batch:
        of_run.setdefault(waiting.log.run_id, []).append(waiting)
    return of_run


def _merge(calls: Sequence[_Waiting]) -> RunAppend:
    first, last = calls[0], calls[-1]
    return RunAppend(
        run_id=first.log.run_id,
        epoch=first.log.epoch,
        first_seq=first.first_seq,
        drafts=[draft for waiting in calls for draft in waiting.drafts],
        steps=[step for waiting in calls for step in waiting.steps],
        state=last.state,
        output=last.output,
    )


def _refusal(add: RunAppend, head: RunHead | None, *, retried: bool) -> TailraceError | None:
    """Return why the append was refused, None when it was accepted now or by an earlier, unanswered try."""
    if head is None:
        return LeaseLost(f"the run {add.run_id!r} does not exist any more")
    if head.epoch != add.epoch:
        return LeaseLost(
            f"another worker owns the run {add.run_id!r}: its epoch is {head.epoch}, this lease had {add.epoch}"
        )
    if head.state == RunState.STARTED and head.last_seq == add.first_seq - 1:
        return None
    if retried and head.last_seq >= add.last_seq:
        return None
    if head.state in TERMINAL_STATES:
        return RunTerminated(f"the run {add.run_id!r} is {head.state} since seq {head.last_seq}; nothing can be added")
    return LeaseLost(
        f"the log of run {add.run_id!r} ends at seq {head.last_seq}, this worker expected {add.first_seq - 1}; "
        "somebody else has written to it"
    )


def _refuse(waiting: _Waiting, refusal: TailraceError) -> None:
    if not waiting.done.done():
        # Each waiter gets an exception of its own: one that several tasks raise grows their tracebacks together.
        waiting.done.set_exception(type(refusal)(str(refusal)))
