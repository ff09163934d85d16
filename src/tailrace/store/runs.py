"""The runs: create, find, list, cancel."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import asyncpg

from tailrace.errors import (
    Fault,
    IdempotencyConflict,
    InvalidInput,
    RunExists,
    RunNotFound,
    RunTerminated,
)
from tailrace.model.run import DEFAULT_TENANT, TERMINAL_STATES, RunRow, RunState, is_run_id
from tailrace.store.database import Database

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What is needed to create a run; ``input`` is JSON text, ``ts`` is RunStarted's, in milliseconds."""

    run_id: str
    agent: str
    input: str | None = field(repr=False)
    ts: int
    idempotency_key: str | None = field(default=None, repr=False)
    request_hash: bytes | None = field(default=None, repr=False)
    tenant: str = DEFAULT_TENANT
    traceparent: str | None = None


class Runs:
    """Repository of ``runs``.

    Where a method takes a tenant, another tenant's run is as one that does not exist; None stands for all tenants, for
    operators, who have the database itself.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, request: RunRequest) -> tuple[RunRow, bool]:
        """Create a run with its RunStarted and its outbox row in one transaction.

        Return the run and whether it is new: with an idempotency key that was used before for the same request it is
        the run of that time.  Errors are those of ``earlier``.
        """
        created = await self.create_many([request])
        if request.run_id in created:
            return created[request.run_id], True
        return await self.earlier(request), False

    async def create_many(
        self,
        requests: Sequence[RunRequest],
        *,
        leased: Collection[str] = (),
        worker: str | None = None,
        lease_seconds: float = 0.0,
    ) -> dict[str, RunRow]:
        """Create runs in one statement and one commit, and return by id those that were created, as if queued.

        Of the others the id is taken, or the idempotency key: ``earlier`` says which.  No two requests may have the
        same id, or the same key of one tenant.

        :param leased: ids of those that begin under a lease of ``worker``, of epoch 1, and not in the queue.
        """
        rows = await self._database.rows(
            "run_create",
            [request.run_id for request in requests],
            [request.agent for request in requests],
            [request.input for request in requests],
            [request.idempotency_key for request in requests],
            [request.request_hash for request in requests],
            [request.ts for request in requests],
            [request.tenant for request in requests],
            [request.traceparent for request in requests],
            [request.run_id in leased for request in requests],
            worker,
            lease_seconds,
        )
        times = {run_id: (created_at, updated_at) for run_id, created_at, updated_at in rows}
        return {
            request.run_id: _created(request, *times[request.run_id]) for request in requests if request.run_id in times
        }

    async def earlier(self, request: RunRequest) -> RunRow:
        """Return the run that the request's idempotency key has started before.

        :raises IdempotencyConflict: the key was used before with another request.
        :raises RunExists: the key was not used: it is the run id that is taken.
        """
        if request.idempotency_key is not None:
            earlier = await self._database.row("run_of_key", request.idempotency_key, request.tenant)
            if earlier is not None:
                if earlier["request_hash"] != request.request_hash:
                    raise IdempotencyConflict(
                        "this Idempotency-Key was used before with another body; use a new key for a new run",
                        [Fault("", "differs from the body this Idempotency-Key was first used with")],
                    )
                return await self.get(earlier["id"], tenant=request.tenant)
        raise RunExists(f"a run with the id {request.run_id!r} exists; choose another, or leave the id out")

    async def key_used(self, idempotency_key: str, tenant: str) -> bool:
        """Return whether the tenant has started a run with this key."""
        return await self._database.row("run_of_key", idempotency_key, tenant) is not None

    async def get(self, run_id: str, *, tenant: str | None = None) -> RunRow:
        """Return a run, or raise ``RunNotFound``."""
        # An id that no run can have is not worth a question, and may hold what Postgres refuses.
        row = await self._database.row("run_show", run_id, tenant) if is_run_id(run_id) else None
        if row is None:
            raise RunNotFound(f"there is no run {run_id[:128]!r}")
        return _run(row)

    async def list(
        self,
        *,
        state: RunState | None,
        agent: str | None,
        limit: int,
        cursor: str | None,
        tenant: str | None = None,
    ) -> tuple[Sequence[RunRow], str | None]:
        """Return up to ``limit`` runs, newest first and without input and output, and the cursor of the next page.

        :raises InvalidInput: the cursor is not one that this method has returned.
        """
        after_created, after_id = _decode_cursor(cursor) if cursor is not None else (None, None)
        rows = await self._database.rows("run_list", state, agent, after_created, after_id, limit + 1, tenant)
        runs = [_run(row) for row in rows[:limit]]
        return runs, _encode_cursor(runs[-1]) if len(rows) > limit else None

    async def cancel(self, run_id: str, ts: int, *, tenant: str | None = None) -> int | None:
        """Cancel a run: a queued one ends now, a started one is asked to end.

        Return the seq of RunCancelled if it was written now, None if its worker will write it.

        :param ts: RunCancelled's time if it is written now, in milliseconds since the Unix epoch.
        :raises RunNotFound: there is no such run.
        :raises RunTerminated: it has ended already.
        """
        row = await self._database.row("run_cancel", run_id, ts, tenant) if is_run_id(run_id) else None
        if row is None:
            raise RunNotFound(f"there is no run {run_id[:128]!r}")
        if row["state"] in TERMINAL_STATES:
            raise RunTerminated(f"the run {run_id!r} is {row['state']} already; there is nothing to cancel")
        seq: int | None = row["last_seq"]
        return seq

    async def stalled(self, stall_seconds: float) -> int:
        """Return how many started runs have had no new event for ``stall_seconds``."""
        count: int = await self._database.value("runs_stalled", stall_seconds)
        return count


def _created(request: RunRequest, created_at: datetime, updated_at: datetime) -> RunRow:
    """Return a new run as it was accepted, which need not be asked for: also one that a worker has from birth."""
    return RunRow(
        id=request.run_id,
        agent=request.agent,
        state=RunState.QUEUED,
        input=request.input,
        output=None,
        last_seq=1,
        next_seq=1,
        created_at=created_at,
        updated_at=updated_at,
        started_at=None,
        finished_at=None,
        cancel_requested_at=None,
        error_class=None,
        error_message=None,
    )


def _run(row: asyncpg.Record) -> RunRow:
    return RunRow(**{**row, "state": RunState(row["state"])})


def _encode_cursor(run: RunRow) -> str:
    micros = (run.created_at - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(f"{micros}/{run.id}".encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        micros, _, run_id = text.partition("/")
        if not is_run_id(run_id):
            raise ValueError(run_id)
        return _EPOCH + timedelta(microseconds=int(micros)), run_id
    except (ValueError, OverflowError, binascii.Error):
        raise InvalidInput(
            "the cursor is not acceptable", [Fault("/cursor", "is not a nextCursor of this list; begin without one")]
        ) from None
