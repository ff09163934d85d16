"""What the doctor asks of the database.  Every statement but those of the canary only reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import asyncpg

from tailrace.model.run import TERMINAL_STATES, RunState
from tailrace.store.database import Database

# The runs named under one heading; as many as `outbox status` shows.
SUSPECTS_MAX = 10
# How many events of runs in progress, and of those that ended last, are counted in search of gaps, how many runs have
# ended last, and how many events are looked at of one run: a fraction of a second.
GAP_SEARCH_EVENTS = 200_000
GAP_SEARCH_ENDED_RUNS = 1000
GAP_SEARCH_AROUND = 100_000
# A transaction of the outbox takes milliseconds.
HELD_SECONDS = 1.0

Suspicion = Literal["behind", "queued", "stalled", "expired"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What the rows of a run say at one moment; ages in seconds by the clock of the database, None where there is none.

    ``next_type`` is the type of the event at ``next_seq``, None where no such row exists; ``missing_seq`` is the first
    seq that the log lacks near the outbox's cursor.
    """

    run_id: str
    agent: str
    state: RunState
    last_seq: int
    next_seq: int
    lease_owner: str | None
    cancel_requested: bool
    lease_left_seconds: float | None
    age_seconds: float
    silent_seconds: float
    outbox_silent_seconds: float
    agent_unseen_seconds: float | None
    next_type: str | None
    next_published: bool
    next_age_seconds: float | None
    last_event_age_seconds: float | None
    missing_seq: int | None

    @property
    def backlog(self) -> int:
        """How many events are persisted and not yet published."""
        return self.last_seq - self.next_seq + 1

    @property
    def ended(self) -> bool:
        """Whether the run's state is terminal."""
        return self.state in TERMINAL_STATES


@dataclass(frozen=True, slots=True)
class Holder:
    """A session that has held locks of the outbox for long."""

    pid: int
    application_name: str
    state: str | None
    held_seconds: float


class Health:
    """Repository of figures about the health of the database's contents."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def suspects(self, suspicion: Suspicion, seconds: float) -> tuple[list[str], int]:
        """Return the worst runs that have been so for ``seconds``, at most ``SUSPECTS_MAX``, and how many there are."""
        return self._named(await self._database.rows(f"health_{suspicion}", seconds, SUSPECTS_MAX))

    async def with_gaps(self) -> tuple[list[str], int]:
        """Return runs that lack events, among those that changed or ended last, and how many are in all."""
        rows = await self._database.rows("health_gaps", GAP_SEARCH_EVENTS, SUSPECTS_MAX, GAP_SEARCH_ENDED_RUNS)
        return self._named(rows)

    async def figures(self, run_ids: Sequence[str]) -> dict[str, Figures]:
        """Return the figures of each run that exists."""
        rows = await self._database.rows("health_runs", list(run_ids), GAP_SEARCH_AROUND)
        return {row["run_id"]: Figures(**{**row, "state": RunState(row["state"])}) for row in rows}

    async def leases_held(self) -> int:
        """Return how many runs some worker holds just now."""
        count: int = await self._database.value("health_leases")
        return count

    async def outbox_holders(self) -> list[Holder]:
        """Return the sessions that have held locks of the outbox for longer than any pass takes."""
        return [Holder(**row) for row in await self._database.rows("health_holders", HELD_SECONDS)]

    async def indexes(self) -> dict[str, bool]:
        """Return the indexes that are there, by name, and whether each is valid."""
        rows = await self._database.rows("health_indexes", self._database.schema)
        return {row["name"]: row["is_valid"] for row in rows}

    async def canary_times(self, run_id: str) -> dict[int, float]:
        """Return, for each published event of a canary by its seq, after how many seconds it was."""
        return {row["seq"]: row["outbox_seconds"] for row in await self._database.rows("canary_times", run_id)}

    async def canaries_left(self, agent_prefix: str, seconds: float) -> list[str]:
        """Return the ids of canaries that are older than ``seconds``."""
        return [row["run_id"] for row in await self._database.rows("canary_left", agent_prefix, seconds)]

    async def remove_canaries(self, run_ids: Sequence[str], agent_prefix: str) -> None:
        """Remove canaries without a trace; a run that is none is left alone."""
        await self._database.rows("canary_remove", list(run_ids), agent_prefix)

    @staticmethod
    def _named(rows: Sequence[asyncpg.Record]) -> tuple[list[str], int]:
        return [row["run_id"] for row in rows], rows[0]["total"] if rows else 0
