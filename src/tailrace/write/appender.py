"""Append: what every run of the process emits goes to Postgres in common commits.

States of an append: waiting -> in flight -> committed, or refused.  While statements are in flight, everything that
is emitted meanwhile waits in line and forms the next batch; each ``append`` returns when its commit has.  Batching is
what separates a few thousand events a second from tens of thousands (docs/adr/0003).

There are two lanes with one statement in flight each, so that Postgres works on one batch while this process settles
and builds the other (docs/adr/0018).  A run is never in both, which keeps its events in order.

Guarantees.  The seq is minted when the append enters the line, and the statement accepts it only right after the
run's last seq, under the run's own epoch and while it is started; so an event is written once or not at all, whatever
is sent twice.  A batch that fails because the database is away is sent again until it is answered: if the lost answer
was a commit, the run's head shows it.  Runs that are refused fail alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import asyncpg

from tailrace.errors import DatabaseUnavailable, InvalidEvent, LeaseLost, RunTerminated, TailraceError
from tailrace.model.draft import Draft
from tailrace.model.run import TERMINAL_STATES, RunState
from tailrace.store.events import Events, RunAppend, RunHead
from tailrace.telemetry import EventsPersisted, Telemetry
from tailrace.write.line import Batch, Call, Line, RunLog, refuse

LANES = 2
# From this many runs in line two statements are better than one: a statement costs a third of a millisecond of Postgres
# before its first row (measured), which is what twenty rows cost.
SPLIT_MIN_RUNS = 32
# A lane waits while it could take less than this part of what is in flight: unequal batches would stay unequal.
SHARE_MIN = 1 / 4
# Of one run so many callers are woken in one turn of the loop: each emits its next event at once, 10 µs or more. A run
# of 200 tasks at full speed let the quiet ones beside it wait 3.3 ms (p50) and 10.8 (p99) with all in one turn, 2.5 and
# 7.3 with this.
ANSWERS_A_TURN = 50


class Appender:
    """Group commit for one process; ``flush_once`` of each lane is run by a duty of its own."""

    def __init__(
        self, events: Events, telemetry: Telemetry, *, on_committed: Callable[[Sequence[RunAppend]], None]
    ) -> None:
        self._events = events
        self._telemetry = telemetry
        self._on_committed = on_committed
        self._line = Line()
        self._batches: list[Batch] = [[] for _ in range(LANES)]
        self._sent = [False] * LANES
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
        while not self._line.room.is_set():
            await self._line.room.wait()
        if self._closed:
            raise DatabaseUnavailable("this process is stopping; the event was not written")
        if log.refusal is not None:
            raise type(log.refusal)(str(log.refusal))
        if log.ended:
            # Said by a task that the agent has left behind. In one batch with the terminal event it would take that
            # one down with it.
            raise RunTerminated(f"the run {log.run_id!r} has ended; nothing can be added")
        log.ended = state is not None
        first_seq = log.last_seq + 1
        log.last_seq += len(drafts)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._line.add(log, Call(first_seq, drafts, step, state, output, done))
        self.work.set()
        return await done

    async def flush_once(self, lane: int = 0) -> bool:
        """Commit the lane's next batch; return whether there was one.

        Raise ``DatabaseUnavailable`` when Postgres is away: the batch is kept and is the next call's.
        """
        if not self._batches[lane]:
            self._batches[lane] = self._line.take(self._share(lane))
            self._sent[lane] = False
        batch = self._batches[lane]
        if not batch:
            return False
        retried, self._sent[lane] = self._sent[lane], True
        try:
            await self._commit(batch, retried=retried)
        except asyncpg.PostgresError:
            # One run's rows were refused and took the others down with them: each goes alone, and is answered for
            # good: were the database to go away now, it must not be sent and refused once more.
            while batch:
                await self._commit_alone(*batch[0])
                self._line.leave(batch.pop(0)[0])
        for log, _ in batch:
            self._line.leave(log)
        self._batches[lane] = []
        if self._line:
            self.work.set()  # The other lane may have waited for a larger share.
        return True

    def close(self) -> None:
        """Fail whatever still waits, and every later append."""
        self._closed = True
        stopping = DatabaseUnavailable("this process is stopping; whether the event was written is not known")
        for batch in self._batches:
            for log, calls in batch:
                refuse(calls, stopping)
                self._line.refuse_waiting(log, stopping)
        self._batches = [[] for _ in range(LANES)]
        self._line.refuse_all(stopping)

    def _share(self, lane: int) -> int:
        """Return how many runs of the line this lane may take now."""
        ready = len(self._line)
        in_flight = sum(len(batch) for other, batch in enumerate(self._batches) if other != lane)
        if in_flight:
            return ready if ready >= in_flight * SHARE_MIN else 0
        return ready if ready < SPLIT_MIN_RUNS else -(-ready // LANES)

    async def _commit_alone(self, log: RunLog, calls: list[Call]) -> None:
        try:
            await self._commit([(log, calls)], retried=True)
        except asyncpg.PostgresError as error:
            refusal = InvalidEvent(f"Postgres refused the event of run {log.run_id!r}: {error}")
            refusal.__cause__ = error
            refuse(calls, refusal)
            self._line.refuse_waiting(log, refusal)
            # What followed was numbered behind the refused events; the log goes on from where it durably ends, so that
            # the run can still be ended.
            log.last_seq = calls[0].first_seq - 1
            log.ended = False

    async def _commit(self, batch: Batch, *, retried: bool) -> None:
        appends = [_merge(log, calls) for log, calls in batch]
        heads = await self._events.append(appends)
        committed: list[RunAppend] = []
        answered: list[list[Call]] = []
        for (log, calls), add in zip(batch, appends, strict=True):
            refusal = _refusal(add, heads.get(add.run_id), retried=retried)
            if refusal is not None:
                log.refusal = refusal
                refuse(calls, refusal)
                self._line.refuse_waiting(log, refusal)
                continue
            committed.append(add)
            answered.append(calls)
        if committed:
            # First, so that the events are on their way before those who wait are woken and emit the next ones.
            self._telemetry.tell(EventsPersisted(committed))
            self._on_committed(committed)
            await _answer(answered)


async def _answer(answered: Sequence[Sequence[Call]]) -> None:
    """Wake those who wait, of one run some in each turn of the loop; all of them, should this be cancelled."""
    for calls in answered:
        _wake(calls[:ANSWERS_A_TURN])
    try:
        for calls in answered:
            for start in range(ANSWERS_A_TURN, len(calls), ANSWERS_A_TURN):
                await asyncio.sleep(0)
                _wake(calls[start : start + ANSWERS_A_TURN])
    finally:
        for calls in answered:
            _wake(calls[ANSWERS_A_TURN:])


def _wake(calls: Sequence[Call]) -> None:
    for call in calls:
        if not call.done.done():
            call.done.set_result(call.last_seq)


def _merge(log: RunLog, calls: Sequence[Call]) -> RunAppend:
    first, last = calls[0], calls[-1]
    drafts = first.drafts if first is last else [draft for call in calls for draft in call.drafts]
    steps = [(call.step[0], call.last_seq, call.step[1]) for call in calls if call.step is not None]
    return RunAppend(log.run_id, log.epoch, first.first_seq, drafts, steps, last.state, last.output)


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
