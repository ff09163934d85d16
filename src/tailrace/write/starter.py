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

Guarantees.  A run, its RunStarted and its outbox row are one commit, or none of them is there.  Nothing is sent twice
here: whether that is safe depends on what the caller knows of its id and key.  A start that its caller has given up
before it was sent is not sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from tailrace.errors import DatabaseUnavailable
from tailrace.model.run import RunRow
from tailrace.store.runs import RunRequest, Runs

# A statement of so many takes some ten milliseconds, most of it for the indexes of `runs`; measured, larger ones gain
# nothing a run, and make the first wait for the last.
BATCH_MAX_RUNS = 100
BATCH_MAX_BYTES = 4 * 2**20
# What may wait: callers that start faster than Postgres commits are held back here.
WAITING_MAX_RUNS = 10_000


@dataclass(slots=True)
class _Waiting:
    """One call of ``create``."""

    request: RunRequest
    done: asyncio.Future[RunRow | None]


class Starter:
    """Creates runs in batches.  ``flush_once`` is run by one duty and never overlaps itself."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._waiting: deque[_Waiting] = deque()
        self._room = asyncio.Semaphore(WAITING_MAX_RUNS)
        self._closed = False
        self.work = asyncio.Event()

    async def create(self, request: RunRequest) -> RunRow | None:
        """Create a run and return it once it is durable, or None when its id or its idempotency key is taken.

        :raises DatabaseUnavailable: Postgres is away; ``sent`` says whether the run may have been created.
        """
        async with self._room:
            if self._closed:
                raise DatabaseUnavailable("this process is stopping; the run was not started")
            done: asyncio.Future[RunRow | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(_Waiting(request, done))
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
        try:
            created = await self._runs.create_many([waiting.request for waiting in batch])
        except (DatabaseUnavailable, asyncpg.PostgresError) as error:
            if len(batch) == 1:
                _pass_on(batch[0], error)
            elif isinstance(error, asyncpg.PostgresError) or isinstance(error.__cause__, asyncpg.DeadlockDetectedError):
                # One row was refused, or another process holds one of these keys and wants a second: such a fault is
                # that of one start, and must not be told to the others.
                for waiting in batch:
                    await self._create([waiting])
            else:
                for waiting in batch:
                    _pass_on(waiting, error)
            return
        for waiting in batch:
            if not waiting.done.done():
                waiting.done.set_result(created.get(waiting.request.run_id))


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
