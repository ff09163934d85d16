"""The outbox: which events wait to be published, and the cursor of each run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby

from tailrace.model.event import TERMINAL_TYPES, StoredEvent
from tailrace.store.database import Connection, Database
from tailrace.store.lines import FIELD, RECORD
from tailrace.store.queries import query

# With as many runs as a publisher takes at once, what a pass may hold in memory.
RUN_MAX_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Unpublished:
    """The next events of one run that wait, contiguous from ``next_seq``.

    ``gap_at`` is the seq that was found where a lower one was due, None when there is no gap.
    """

    run_id: str
    next_seq: int
    events: Sequence[StoredEvent]
    gap_at: int | None

    @property
    def last_seq(self) -> int:
        """The seq of the last event."""
        return self.events[-1].seq

    @property
    def is_terminal(self) -> bool:
        """Whether the last event ends the run."""
        return self.events[-1].type in TERMINAL_TYPES


@dataclass(frozen=True, slots=True)
class Laggard:
    """A run with a backlog."""

    run_id: str
    next_seq: int
    last_seq: int
    backlog: int


class OutboxTransaction:
    """Outbox rows of some runs, locked until the transaction ends."""

    def __init__(self, connection: Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def take(
        self, hints: Sequence[str] | None, but: Sequence[str], *, runs_max: int, events_max: int
    ) -> list[Unpublished]:
        """Lock runs with unpublished events and return those events.

        Runs that another publisher has locked are skipped.

        :param hints: look at these runs alone, or None for all that are open but those in ``but``.
        :param events_max: most events of one run; fewer when their data is over about ``RUN_MAX_BYTES``.
        """
        if hints is None:
            rows = await self._connection.fetch(
                query("outbox_take", self._schema), runs_max, events_max, RUN_MAX_BYTES, list(but)
            )
        else:
            rows = await self._connection.fetch(
                query("outbox_take_hinted", self._schema), list(hints), runs_max, events_max, RUN_MAX_BYTES
            )
        taken = []
        for run_id, of_run in groupby(rows, key=lambda row: row["run_id"]):
            found = list(of_run)
            next_seq = found[0]["next_seq"]
            events = [
                StoredEvent._make(row[:7]) for expected, row in enumerate(found, next_seq) if row["seq"] == expected
            ]
            gap_at = found[len(events)]["seq"] if len(events) < len(found) else None
            taken.append(Unpublished(run_id, next_seq, events, gap_at))
        return taken

    async def defer(self, run_ids: Sequence[str]) -> None:
        """Look at these runs last, next time."""
        await self._connection.execute(query("outbox_defer", self._schema), list(run_ids))

    async def advance_from(self, batch: Sequence[Unpublished]) -> set[str]:
        """Lock, mark and advance the runs whose cursor stands at ``next_seq``; return them.

        The others were left as they are: their cursor stands elsewhere, or another publisher has locked them.
        """
        rows = await self._connection.fetch(query("outbox_advance_from", self._schema), _lines(batch))
        return {row[0] for row in rows}

    async def advance(self, published: Sequence[Unpublished]) -> list[str]:
        """Mark these events published, move the cursors, and return the runs that have more already."""
        rows = await self._connection.fetch(query("outbox_advance", self._schema), _lines(published))
        return [row["id"] for row in rows]


def _lines(batch: Sequence[Unpublished]) -> str:
    return RECORD.join(
        [f"{run.run_id}{FIELD}{run.next_seq}{FIELD}{run.last_seq}{FIELD}{run.is_terminal}" for run in batch]
    )


class Outbox:
    """Repository of ``run_outbox``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[OutboxTransaction]:
        """Open a transaction in which outbox rows can be taken and advanced; it commits at the end of the block."""
        async with self._database.transaction() as connection:
            yield OutboxTransaction(connection, self._database.schema)

    async def advance_from(self, batch: Sequence[Unpublished]) -> set[str]:
        """As ``OutboxTransaction.advance_from``, in a commit of its own."""
        return {row[0] for row in await self._database.rows("outbox_advance_from", _lines(batch))}

    async def backlog(self) -> tuple[int, float | None]:
        """Return how many events wait in all, and the age in seconds of the oldest, None when there is none."""
        row = await self._database.row("outbox_backlog")
        return (row["backlog"], row["oldest_seconds"]) if row is not None else (0, None)

    async def laggards(self, limit: int) -> list[Laggard]:
        """Return the runs with the largest backlog, largest first."""
        return [Laggard(**row) for row in await self._database.rows("outbox_laggards", limit)]
