"""The archive as Postgres knows it: whose turn it is, which objects there are, and which runs lie in them.

Every change is fenced: it is made only while ``holder`` has the turn, by the statement itself.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

from tailrace.errors import ArchiveBusy
from tailrace.store.database import Database

_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
# Rows of one run: its id, and the seqs after the first number up to the second.
Range: TypeAlias = tuple[str, int, int]


class Row(NamedTuple):
    """One row of ``run_events``, whole; ``data`` is JSON text, times are microseconds since the Unix epoch."""

    run_id: str
    seq: int
    ts: int
    type: str
    v: int
    source: str
    name: str | None
    fn: str | None
    data: str | None
    epoch: int
    published_us: int | None
    created_us: int


class Candidate(NamedTuple):
    """A run that may be archived."""

    run_id: str
    last_seq: int
    finished_at: datetime


class Held(NamedTuple):
    """A run's archive copy: in which object, from which row on, how many events, and their hash."""

    run_id: str
    object: str
    first_row: int
    events: int
    sha256: bytes
    size_bytes: int
    archived_at: datetime
    restored_at: datetime | None
    trimmed: bool


class Untrimmed(NamedTuple):
    """A run with an archive copy that may have rows as well."""

    run_id: str
    object: str
    events: int
    size_bytes: int


class Placed(NamedTuple):
    """Where a run begins in a new object."""

    run_id: str
    first_row: int
    events: int
    sha256: bytes


class Purgeable(NamedTuple):
    """A run as far as a purge asks about it."""

    run_id: str
    last_seq: int
    object: str | None
    ended: bool
    published: bool


class Archives:
    """Repository of the archive's tables, for the process that calls itself ``holder``."""

    def __init__(self, database: Database, holder: str) -> None:
        self._database = database
        self.holder = holder

    async def take_turn(self, seconds: float) -> bool:
        """Take or keep the turn; return False when another process has it."""
        return await self._database.row("archive_turn_take", self.holder, seconds) is not None

    async def leave_turn(self) -> None:
        """Give the turn back."""
        await self._database.rows("archive_turn_leave", self.holder)

    async def candidates(self, age_seconds: float, after: Candidate | None, limit: int) -> Sequence[Candidate]:
        """Return runs that ended longer ago and are published, the oldest end first."""
        finished_at, run_id = (after.finished_at, after.run_id) if after is not None else (_BEGINNING, "")
        rows = await self._database.rows("archive_candidates", age_seconds, finished_at, run_id, limit)
        return [Candidate._make(row) for row in rows]

    async def page(self, wanted: Sequence[Range], max_bytes: int) -> Sequence[Row]:
        """Return rows in the order of what is wanted, about ``max_bytes`` of data, but never none when there is one."""
        return [Row._make(row) for row in await self._database.rows("archive_page", *_columns(wanted), max_bytes)]

    async def begin_object(self, name: str) -> None:
        """Account for an object before it is written."""
        self._done(await self._database.row("archive_object_begin", self.holder, name))

    async def keep_object(self, name: str, size_bytes: int, placed: Sequence[Placed]) -> None:
        """Point the runs to an object that was read back; from now on their rows may go."""
        runs, first_rows, events, hashes = (list(column) for column in zip(*placed, strict=True))
        args = (name, size_bytes, sum(events), runs, first_rows, events, hashes)
        self._done(await self._database.row("archive_object_keep", self.holder, *args))

    async def doom_objects(self, names: Sequence[str]) -> None:
        """Mark objects as ones that shall not be."""
        await self._database.rows("archive_object_doom", self.holder, list(names))

    async def unstored_objects(self) -> dict[str, str]:
        """Return name and state of the objects that are to be removed from the store."""
        return {row["name"]: row["state"] for row in await self._database.rows("archive_objects_unstored")}

    async def forget_objects(self, age_seconds: float) -> None:
        """Forget objects that were doomed longer ago."""
        await self._database.rows("archive_objects_forget", self.holder, age_seconds)

    async def stored_objects(self) -> int:
        """Return how many objects are kept."""
        count: int = await self._database.value("archive_objects_count")
        return count

    async def untrimmed(self, age_seconds: float, after: str, limit: int) -> Sequence[Untrimmed]:
        """Return runs whose rows may go, by id; not those that were restored less long ago."""
        rows = await self._database.rows("archive_untrimmed", age_seconds, limit, after)
        return [Untrimmed._make(row) for row in rows]

    async def trim(self, wanted: Sequence[Range]) -> int:
        """Delete rows that have a copy and are not the last of their run; return how many there were."""
        return self._counted(await self._database.row("archive_trim", self.holder, *_columns(wanted)))

    async def mark_trimmed(self, run_ids: Sequence[str]) -> None:
        """Say that only the last row of these runs is left."""
        self._done(await self._database.row("archive_trimmed", self.holder, list(run_ids)))

    async def of_run(self, run_id: str) -> Held | None:
        """Return a run's archive copy, None when it has none."""
        row = await self._database.row("archive_of_run", run_id)
        return Held._make(row) if row is not None else None

    async def of_object(self, name: str) -> Sequence[Held]:
        """Return the runs in an object, in the order of their rows."""
        return [Held._make(row) for row in await self._database.rows("archive_of_object", name)]

    async def list(self, after: str, limit: int) -> Sequence[Held]:
        """Return archive copies by the id of their runs."""
        return [Held._make(row) for row in await self._database.rows("archive_list", after, limit)]

    async def first_seq(self, run_id: str) -> int | None:
        """Return the first seq of a run that is in Postgres."""
        seq: int | None = await self._database.value("archive_first_seq", run_id)
        return seq

    async def restored_events(self) -> int:
        """Return how many events of archived runs were brought back and are wanted in Postgres."""
        count: int = await self._database.value("archive_restored_count")
        return count

    async def begin_restore(self, run_id: str) -> None:
        """Say that a run's rows are wanted from now on."""
        self._done(await self._database.row("archive_restore_begin", self.holder, run_id))

    async def restore(self, run_id: str, rows: Sequence[Row]) -> int:
        """Put rows back as they were, and return how many were not there."""
        columns = [list(column) for column in zip(*(row[1:] for row in rows), strict=True)]
        return self._counted(await self._database.row("archive_restore", self.holder, run_id, *columns))

    async def purgeable(
        self, run_ids: Sequence[str], tenant: str | None, after: str, limit: int
    ) -> Sequence[Purgeable]:
        """Return the runs that are named, or the tenant's, by id."""
        rows = await self._database.rows("purge_find", list(run_ids), tenant, after, limit)
        return [Purgeable._make(row) for row in rows]

    async def replace_object(
        self, old: str, new: str | None, size_bytes: int, placed: Sequence[Placed], purged: Sequence[str]
    ) -> None:
        """Doom an object: what stays of it is in ``new``, and the purged runs have no copy any more."""
        runs, first_rows = [run.run_id for run in placed], [run.first_row for run in placed]
        args = (old, new, size_bytes, sum(run.events for run in placed), runs, first_rows, list(purged))
        self._done(await self._database.row("purge_object", self.holder, *args))

    async def purge_events(self, run_id: str, after: int, upto: int) -> int:
        """Delete rows of a run that is purged; return how many there were."""
        return self._counted(await self._database.row("purge_events", self.holder, run_id, after, upto))

    async def purge_runs(self, run_ids: Sequence[str]) -> None:
        """Delete runs that have no copy, with all that hangs on them but their events."""
        self._done(await self._database.row("purge_run", self.holder, list(run_ids)))

    def _done(self, row: Any) -> None:
        if row is None:
            raise ArchiveBusy("the turn to change the archive went to another process; what was done so far stays")

    def _counted(self, row: Any) -> int:
        self._done(row if row["held"] else None)
        count: int = row[1]
        return count


def holder_name() -> str:
    """Return the name of this process as a holder of the turn, unlike any other's."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def _columns(wanted: Sequence[Range]) -> tuple[list[str], list[int], list[int]]:
    return [run for run, _, _ in wanted], [after for _, after, _ in wanted], [upto for _, _, upto in wanted]
