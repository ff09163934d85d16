"""Orchestrate: start a run and cancel a run, and ring whoever has to act."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence

from tailrace.errors import DatabaseUnavailable, OutcomeUnknown, RunExists
from tailrace.model import draft, strictjson
from tailrace.model.run import DEFAULT_TENANT, RunRow
from tailrace.store.doorbell import Doorbell, Ring
from tailrace.store.events import RunAppend
from tailrace.store.runs import RunRequest, Runs
from tailrace.telemetry import EventsPersisted, RunCreated, Telemetry
from tailrace.trace import Span, new_trace
from tailrace.write.starter import Starter


def now_ms() -> int:
    """Return the time in milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def new_run_id() -> str:
    """Return a run id that sorts by time (48 bits of milliseconds) and cannot be guessed (80 random bits)."""
    return f"{now_ms():012x}{secrets.token_hex(10)}"


class Orchestrator:
    """Starts and cancels runs.  Nothing starts unless a duty performs ``starter.flush_once``.

    :param tracing: begin a trace with each run, and keep in its row where.
    """

    def __init__(
        self,
        runs: Runs,
        doorbell: Doorbell,
        telemetry: Telemetry,
        *,
        on_committed: Callable[[Sequence[RunAppend]], None],
        tracing: bool = False,
    ) -> None:
        self._tracing = tracing
        self._runs = runs
        self._on_committed = on_committed
        self.starter = Starter(runs, on_queued=lambda: doorbell.ring(Ring.JOBS))
        self._doorbell = doorbell
        self._telemetry = telemetry

    async def start(
        self,
        agent: str,
        input_value: object,
        *,
        run_id: str | None = None,
        idempotency_key: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> tuple[RunRow, bool]:
        """Create a queued run and return it and whether it is new.

        With an idempotency key that was used before for the same request it is the run of that time.

        :param input_value: any JSON value, None for none.
        :raises IdempotencyConflict: the key was used before with another request.
        :raises RunExists: the run id is taken.
        :raises OutcomeUnknown: Postgres went away before it answered, and whether the run was started is not known.
        :raises DatabaseUnavailable: Postgres is away, and nothing was started.
        """
        text = strictjson.dump(input_value) if input_value is not None else None
        request_hash = None
        if idempotency_key is not None:
            request_hash = hashlib.sha256(strictjson.canonical([agent, input_value, run_id])).digest()
        trace = new_trace() if self._tracing else None
        request = RunRequest(
            run_id or new_run_id(), agent, text, now_ms(), idempotency_key, request_hash, tenant,
            trace.traceparent if trace is not None else None,
        )  # fmt: skip
        begun_ns = time.time_ns()
        run, is_new = await self._create(request, can_ask_again=run_id is None or idempotency_key is not None)
        if is_new:
            if trace is not None:
                self._telemetry.tell(Span("run.start", trace, None, run.id, agent, begun_ns, time.time_ns(), None))
            self._telemetry.tell(RunCreated(run.id, run.agent, trace))
            self._committed(RunAppend(run.id, 0, 1, [draft.run_started(request.ts)]))
        return run, is_new

    async def _create(self, request: RunRequest, *, can_ask_again: bool) -> tuple[RunRow, bool]:
        """Create the run; when the answer is lost, find out whether it was created, as far as that can be had.

        Sending the same again does both: it creates the run, or finds the one of the first try, by its key or by its
        id, which is ours alone.  An id that the caller chose without a key may have been anybody's: then the caller
        has to look.  The second try queues: where a lease of the first may be, it is given back, and not given twice.
        """
        try:
            return await self._create_once(request)
        except DatabaseUnavailable as error:
            if not error.sent:
                raise
            lost = error
        if can_ask_again:
            try:
                return await self._create_or_find(request)
            except DatabaseUnavailable as error:
                lost = error
        raise OutcomeUnknown(
            f"{lost}. Whether the run {request.run_id!r} was started is not known: repeat the request with the "
            "Idempotency-Key it had, or, if it had none, look whether there is such a run"
        ) from lost

    async def _create_once(self, request: RunRequest, *, queued: bool = False) -> tuple[RunRow, bool]:
        run = await self.starter.create(request, queued=queued)
        return (run, True) if run is not None else (await self._runs.earlier(request), False)

    async def _create_or_find(self, request: RunRequest) -> tuple[RunRow, bool]:
        try:
            run, is_new = await self._create_once(request, queued=True)
        except RunExists:
            if request.idempotency_key is not None:
                raise  # With the key the first try's run would have been found; this one is somebody else's.
            self._doorbell.ring(Ring.JOBS)
            return await self._runs.get(request.run_id, tenant=request.tenant), True
        if run.id == request.run_id and not is_new:
            self._doorbell.ring(Ring.JOBS)
        return run, is_new or run.id == request.run_id

    async def cancel(self, run_id: str, *, tenant: str | None = None) -> None:
        """Cancel a run; errors are those of ``Runs.cancel``."""
        ts = now_ms()
        seq = await self._runs.cancel(run_id, ts, tenant=tenant)
        if seq is None:
            self._doorbell.ring(Ring.CANCEL, run_id)
        else:
            self._committed(RunAppend(run_id, 0, seq, [draft.run_cancelled(ts)]))

    def _committed(self, append: RunAppend) -> None:
        self._telemetry.tell(EventsPersisted([append]))
        self._on_committed([append])
