"""The events: append in batches, read in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tailrace.model.draft import Draft
from tailrace.model.event import StoredEvent
from tailrace.model.run import DEFAULT_TENANT, RunState
from tailrace.store.database import Database
from tailrace.store.lines import FIELD, RECORD, escaped


class RunAppend(NamedTuple):
    """What one run adds in one batch: drafts that begin at ``first_seq``, kept steps, and how the run ends if it does.

    ``steps`` are ``(key, seq, result)`` with the result as JSON text; ``output`` is JSON text.
    """

    run_id: str
    epoch: int
    first_seq: int
    drafts: Sequence[Draft]
    steps: Sequence[tuple[str, int, str]] = ()
    state: RunState | None = None
    output: str | None = None

    @property
    def last_seq(self) -> int:
        """The seq of the last draft."""
        return self.first_seq + len(self.drafts) - 1

    @property
    def types(self) -> list[str]:
        """The types of the drafts."""
        return [draft.type for draft in self.drafts]

    @property
    def events(self) -> list[StoredEvent]:
        """The events as they lie in Postgres once they are committed."""
        return [
            StoredEvent(self.run_id, seq, draft.ts, draft.type, draft.name, draft.fn, draft.data)
            for seq, draft in enumerate(self.drafts, self.first_seq)
        ]


class RunHead(NamedTuple):
    """A run's row as the append found it, before its own change."""

    state: str
    epoch: int
    last_seq: int


class Tail(NamedTuple):
    """How far a run is published and persisted, whether it has ended, whose it is, and whether it is archived."""

    published_seq: int
    last_seq: int
    ended: bool
    tenant: str = DEFAULT_TENANT
    archived: bool = False


class Frames(NamedTuple):
    """Frames of one run's events without what they have in common, and how many they are.

    ``read.frame.written_out`` makes them what goes over the wire; ``kind`` is what it writes for one of its marks.
    """

    text: bytes
    events: int
    kind: bytes = b""


def append_arguments(batch: Sequence[RunAppend]) -> tuple[str, str, str]:
    """Return the arguments of ``append.sql``: a line a run, a line an event, a line a kept step."""
    heads = [
        f"{add.run_id}{FIELD}{add.epoch}{FIELD}{add.first_seq}{FIELD}{add.last_seq}"
        f"{FIELD}{add.state or ''}{FIELD}{add.output or ''}"
        for add in batch
    ]
    events = [
        f"{add.run_id}{FIELD}{seq}{FIELD}{ts}{FIELD}{kind}{FIELD}{escaped(name)}{FIELD}{escaped(fn)}{FIELD}{data or ''}"
        for add in batch
        for seq, (kind, ts, name, fn, data) in enumerate(add.drafts, add.first_seq)
    ]
    steps = [
        f"{add.run_id}{FIELD}{escaped(key)}{FIELD}{seq}{FIELD}{result}"
        for add in batch
        for key, seq, result in add.steps
    ]
    return RECORD.join(heads), RECORD.join(events), RECORD.join(steps)


class Events:
    """Repository of ``run_events``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, batch: Sequence[RunAppend]) -> dict[str, RunHead]:
        """Append to many runs in one statement and one commit; at most one ``RunAppend`` a run.

        A run whose epoch, state or last seq is not what the batch expects is left as it is, while the others commit:
        compare the returned head of each run with what was sent.  A run that does not exist has none.
        """
        rows = await self._database.rows("append", *append_arguments(batch))
        return {row[0]: RunHead._make(row[1:]) for row in rows}

    async def page(self, run_id: str, *, after: int, upto: int, limit: int, max_bytes: int) -> list[StoredEvent]:
        """Return events with ``after < seq <= upto``, at most ``limit`` and about ``max_bytes`` of data, but never none
        when there is one.
        """
        rows = await self._database.rows("events_page", run_id, after, upto, limit, max_bytes)
        return [StoredEvent._make(row) for row in rows]

    async def frames(self, run_id: str, *, after: int, upto: int, part: int, event_max_bytes: int) -> Sequence[Frames]:
        """Return the frames of events with ``after < seq <= upto`` in order, in short, joined ``part`` at a time.

        Built by Postgres, which costs this process a tenth of what rows do.  A carriage return stands for an event that
        has to be read as a row: one with more than ``event_max_bytes`` of data.
        """
        rows = await self._database.rows("events_frames", run_id, after, upto, part, event_max_bytes)
        return [Frames(row[0] or b"", row[1], row[2] or b"") for row in rows]

    async def of_many(self, wanted: Mapping[str, tuple[int, int]], limit: int) -> dict[str, list[StoredEvent]]:
        """Return, for each run with ``(after, upto)``, its events in that range in order, at most ``limit`` of each."""
        rows = await self._database.rows(
            "events_of_many",
            list(wanted),
            [after for after, _ in wanted.values()],
            [upto for _, upto in wanted.values()],
            limit,
        )
        found: dict[str, list[StoredEvent]] = {run_id: [] for run_id in wanted}
        for row in rows:
            found[row["run_id"]].append(StoredEvent._make(row))
        return found

    async def tails(self, run_ids: Sequence[str]) -> dict[str, Tail]:
        """Return the tail of each run that exists."""
        rows = await self._database.rows("tails", list(run_ids))
        return {row[0]: Tail._make(row[1:]) for row in rows}
