"""Start: what every caller of the process starts goes to Postgres in common commits.

States of a start: waiting -> in flight -> created, or taken, or failed.  While one statement is in flight, everything
that is started meanwhile waits and forms the next batch, as in the appender; each ``create`` returns when its commit
has.

    what the statement says          each start of the batch is told
    its row was written              the run
    its row was not written          None: its id is taken, or its key; the caller looks which
    Postgres was not reached         ``DatabaseUnavailable``: nothing was started
    the answer was lost              ``DatabaseUnavailable`` with ``sent``: the caller finds out (``write.orchestrate``)
    Postgres refused some row        each goes alone, and its own fault is its own

Where a worker of this process has a place for a run, the run is born under that worker's lease, in the same commit, and
begins as soon as that is answered: no claim, no wake-up, and one row less to write (docs/adr/0027).  The others are
queued.

Guarantees.  A run, its RunStarted and its outbox row are one commit, or none of them is there.  Nothing is sent twice
here: whether that is safe depends on what the caller knows of its id and key.  A start that its caller has given up
before it was sent is not sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from tailrace.errors import DatabaseUnavailable
from tailrace.model.run import Lease, RunRow
from tailrace.store.runs import RunRequest, Runs

# A statement of so many takes some ten milliseconds, most of it for the indexes of `runs`; measured, larger ones gain
# nothing a run, and make the first wait for the last.
BATCH_MAX_RUNS = 100
BATCH_MAX_BYTES = 4 * 2**20
# What may wait: callers that start faster than Postgres commits are held back here.
WAITING_MAX_RUNS = 10_000


@dataclass(frozen=True, slots=True)
class Host:
    """The worker of this process, for runs that it begins without a claim.

    ``reserve`` keeps a place for a run of an agent, if it may have one.  ``settle`` is told what became of the runs
    that have places: the leases of those that were created, or None when the answer was lost; and since when the
    leases count, on the loop's clock.
    """

    worker: str
    lease_seconds: float
    reserve: Callable[[str], bool]
    settle: Callable[[Sequence[str], Sequence[Lease] | None, float], None]


@dataclass(slots=True)
class _Waiting:
    """One call of ``create``."""

    request: RunRequest
    queued: bool
    done: asyncio.Future[RunRow | None]


class Starter:
    """Creates runs in batches.  ``flush_once`` is run by one duty and never overlaps itself.

    :param on_queued: called when runs were queued.
    """

    def __init__(self, runs: Runs, *, on_queued: Callable[[], None]) -> None:
        self._runs = runs
        self._on_queued = on_queued
        self.host: Host | None = None
        self._waiting: deque[_Waiting] = deque()
        self._room = asyncio.Semaphore(WAITING_MAX_RUNS)
        self._closed = False
        self.work = asyncio.Event()

    async def create(self, request: RunRequest, *, queued: bool = False) -> RunRow | None:
        """Create a run and return it once it is durable, or None when its id or its idempotency key is taken.

        :param queued: it begins in the queue, whoever has a place for it.
        :raises DatabaseUnavailable: Postgres is away; ``sent`` says whether the run may have been created.
        """
        async with self._room:
            if self._closed:
                raise DatabaseUnavailable("this process is stopping; the run was not started")
            done: asyncio.Future[RunRow | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(_Waiting(request, queued, done))
            self.work.set()
            return await done

    async def flush_once(self) -> bool:
        """Create the next batch; return whether there was one."""
        batch = self._next_batch()
        if not batch:
            return False
        try:
            await self._create(batch)
        finally:
            # Something that nobody foresaw, or the process stops: what became of the statement is not known.
            for waiting in batch:
                _refuse(waiting, "this process is stopping; whether the run was started is not known", sent=True)
        return True

    def close(self) -> None:
        """Refuse whatever waits, and every later start."""
        self._closed = True
        while self._waiting:
            _refuse(self._waiting.popleft(), "this process is stopping; the run was not started", sent=False)

    def _next_batch(self) -> list[_Waiting]:
        """Return what is to be sent together, in the order in which every process locks."""
        batch: list[_Waiting] = []
        left: list[_Waiting] = []
        ids: set[str] = set()
        keys: set[tuple[str, str]] = set()
        size = 0
        while self._waiting and len(batch) < BATCH_MAX_RUNS and size < BATCH_MAX_BYTES:
            waiting = self._waiting.popleft()
            request = waiting.request
            if waiting.done.done():
                continue
            key = (request.tenant, request.idempotency_key) if request.idempotency_key is not None else None
            if request.run_id in ids or key in keys:
                left.append(waiting)
                continue
            ids.add(request.run_id)
            if key is not None:
                keys.add(key)
            batch.append(waiting)
            size += len(request.input or "")
        self._waiting.extendleft(reversed(left))
        batch.sort(key=_place)
        return batch

    async def _create(self, batch: Sequence[_Waiting]) -> None:
        host = self.host
        places: list[str] = []
        if host is not None:
            places = [
                waiting.request.run_id
                for waiting in batch
                if not waiting.queued and host.reserve(waiting.request.agent)
            ]
        # Before it is sent: the lease is over here no later than in Postgres, which counts from when it is written.
        since = asyncio.get_running_loop().time()
        leases: list[Lease] | None = None
        failure: DatabaseUnavailable | asyncpg.PostgresError | None = None
        try:
            created = await self._runs.create_many(
                [waiting.request for waiting in batch],
                leased=set(places),
                worker=host.worker if host is not None else None,
                lease_seconds=host.lease_seconds if host is not None else 0.0,
            )
            leases = _answer(batch, created, set(places))
            if len(leases) < len(created):
                self._on_queued()
        except (DatabaseUnavailable, asyncpg.PostgresError) as error:
            failure = error
            if _nothing_was_created(error):
                leases = []
        finally:
            if host is not None and places:
                host.settle(places, leases, since)
        if failure is not None:
            await self._fail(batch, failure)

    async def _fail(self, batch: Sequence[_Waiting], error: DatabaseUnavailable | asyncpg.PostgresError) -> None:
        if len(batch) == 1:
            _pass_on(batch[0], error)
        elif _is_of_one(error):
            # One row was refused, or another process holds one of these keys and wants a second: such a fault is that
            # of one start, and must not be told to the others.
            for waiting in batch:
                await self._create([waiting])
        else:
            for waiting in batch:
                _pass_on(waiting, error)


def _answer(batch: Sequence[_Waiting], created: Mapping[str, RunRow], places: Collection[str]) -> list[Lease]:
    """Tell each start of a batch what became of it; return the leases of those that were born with one."""
    leases = []
    for waiting in batch:
        request = waiting.request
        run = created.get(request.run_id)
        if not waiting.done.done():
            waiting.done.set_result(run)
        if run is not None and request.run_id in places:
            created_at = run.created_at.timestamp()
            leases.append(
                Lease(
                    run.id,
                    run.agent,
                    run.input,
                    epoch=1,
                    last_seq=1,
                    takeovers=0,
                    resumed=False,
                    cancel_requested=False,
                    created_at_seconds=created_at,
                    traceparent=request.traceparent,
                )
            )
    return leases


def _is_of_one(error: DatabaseUnavailable | asyncpg.PostgresError) -> bool:
    return isinstance(error, asyncpg.PostgresError) or isinstance(error.__cause__, asyncpg.DeadlockDetectedError)


def _nothing_was_created(error: DatabaseUnavailable | asyncpg.PostgresError) -> bool:
    return _is_of_one(error) or not (isinstance(error, DatabaseUnavailable) and error.sent)


def _place(waiting: _Waiting) -> tuple[bool, str, str]:
    request = waiting.request
    has_no_key = request.idempotency_key is None
    return (has_no_key, request.tenant, request.idempotency_key or request.run_id)


def _pass_on(waiting: _Waiting, error: DatabaseUnavailable | asyncpg.PostgresError) -> None:
    if isinstance(error, DatabaseUnavailable):
        _refuse(waiting, str(error), sent=error.sent, cause=error)
    elif not waiting.done.done():
        waiting.done.set_exception(error)


def _refuse(waiting: _Waiting, text: str, *, sent: bool, cause: BaseException | None = None) -> None:
    if not waiting.done.done():
        # Each waiter gets an exception of its own: one that several tasks raise grows their tracebacks together.
        refusal = DatabaseUnavailable(text)
        refusal.sent = sent
        refusal.__cause__ = cause
        waiting.done.set_exception(refusal)
