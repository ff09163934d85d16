"""Moves finished runs into the archive, and back.  The walk of the data, step by step, is in docs/adr/0019."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice

from tailrace.archive.objects import batches, clean, is_whole, store
from tailrace.archive.parquet import GROUP_BYTES, GROUP_ROWS, Digest, Spool
from tailrace.archive.turn import PATIENT_SECONDS, turn
from tailrace.archive.vault import ObjectGone, Vault
from tailrace.errors import ArchiveBusy, ArchiveMismatch
from tailrace.store.archives import Archives, Candidate, Held
from tailrace.telemetry import ArchiveTurnEnded, RunNotArchivable, RunsArchived, Telemetry

# An object holds at most this, but never less than one run: what a purge of one run writes anew, and what is done
# anew after a kill.
OBJECT_EVENTS = 500_000
OBJECT_BYTES = 128 * 2**20
OBJECT_RUNS = 20_000
CANDIDATES = 1000
# Rows that one statement deletes: tens of milliseconds, so that appends pass between.
TRIM_ROWS = 5000
TRIM_RUNS = 1000
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Archived:
    """What one call has done: runs and events that were copied, rows deleted; ``more`` when there may be more to do."""

    runs: int = 0
    events: int = 0
    rows_deleted: int = 0
    more: bool = False

    def __add__(self, other: Archived) -> Archived:
        return Archived(
            self.runs + other.runs, self.events + other.events, self.rows_deleted + other.rows_deleted, other.more
        )


class _Gap(Exception):
    """A run's rows are not all there."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id


class Archiver:
    """Archives into ``vault``; ``gaps`` names the runs that it met and cannot archive, for rows of them are missing."""

    def __init__(
        self, archives: Archives, vault: Vault, telemetry: Telemetry, *, object_events: int = OBJECT_EVENTS
    ) -> None:
        self._archives = archives
        self._vault = vault
        self._telemetry = telemetry
        self._object_events = object_events
        self.gaps: set[str] = set()

    async def archive_once(self, age_days: float, *, wait_seconds: float = PATIENT_SECONDS) -> Archived:
        """Finish what was begun, then copy runs that ended more than ``age_days`` ago into one object and delete rows.

        :raises ArchiveBusy: another process has the turn.
        :raises ArchiveUnavailable: the store is away.
        :raises ArchiveMismatch: what was read back is not what was written, or an object is lost; its rows stay.
        """
        age_seconds = age_days * SECONDS_PER_DAY
        async with turn(self._archives, wait_seconds=wait_seconds):
            await self._vault.do(self._vault.prepare, await self._archives.stored_objects())
            await clean(self._archives, self._vault)
            deleted, lost = await self._trim(age_seconds)
            runs, events = await self._copy(age_seconds)
            if runs:
                deleted += (await self._trim(age_seconds))[0]
        if lost and not runs:  # Told when all else is done: it holds nothing else up.
            raise ArchiveMismatch(
                f"the archive at {self._vault.url} has lost {', '.join(lost)}; what is still in Postgres stays there"
            )
        self._telemetry.tell(ArchiveTurnEnded(time.time(), deleted))
        return Archived(runs, events, deleted, more=runs > 0)

    async def keep_once(self, age_days: float) -> bool:
        """Do one object's worth of ``archive_once`` as a duty; return whether there may be more to do at once."""
        try:
            done = await self.archive_once(age_days, wait_seconds=0)
        except ArchiveBusy:
            return False  # Another worker does it.
        return done.more

    async def restore(self, run_id: str) -> int | None:
        """Put a run's rows back as they were; return how many were not there, None when it has no archive copy.

        :raises ArchiveMismatch: the object is lost, or the rows are not those that were archived.
        """
        async with turn(self._archives, wait_seconds=PATIENT_SECONDS):
            held = await self._archives.of_run(run_id)
            if held is None:
                return None
            await self._archives.begin_restore(run_id)
            restored = await self._put_back(held)
            if await self._digest(held) != (held.events, held.sha256):
                raise ArchiveMismatch(
                    f"the rows of run {run_id!r} are not those that were archived; the object {held.object} has them"
                )
            return restored

    async def _copy(self, age_seconds: float) -> tuple[int, int]:
        """Copy runs into one object; return how many runs and events."""
        while chosen := await self._choose(age_seconds):
            spool = Spool()
            try:
                await self._fill(spool, chosen)
                name, size, placed = await store(self._archives, self._vault, spool)
                await self._archives.keep_object(name, size, placed)
            except _Gap as gap:
                self.gaps.add(gap.run_id)
                self._telemetry.tell(RunNotArchivable(gap.run_id))
                continue
            finally:
                spool.close()
            self._telemetry.tell(RunsArchived(name, len(placed), spool.digest.rows, size))
            return len(placed), spool.digest.rows
        return 0, 0

    async def _choose(self, age_seconds: float) -> Sequence[Candidate]:
        """Return the runs of the next object, by id."""
        chosen: list[Candidate] = []
        events = 0
        last: Candidate | None = None
        while found := await self._archives.candidates(age_seconds, last, CANDIDATES):
            last = found[-1]
            for run in found:
                if run.run_id in self.gaps:
                    continue
                if chosen and (events + run.last_seq > self._object_events or len(chosen) == OBJECT_RUNS):
                    return sorted(chosen)
                chosen.append(run)
                events += run.last_seq
        return sorted(chosen)

    async def _fill(self, spool: Spool, chosen: Sequence[Candidate]) -> None:
        """Spool the runs whole, a page at a time; fewer of them when they turn out to be large."""
        runs = list(chosen)
        done, after, page_rows = 0, 0, GROUP_ROWS
        while done < len(runs):
            upcoming = ((run.run_id, 0, run.last_seq) for run in islice(runs, done + 1, None))
            first = (runs[done].run_id, after, runs[done].last_seq)
            rows = await self._archives.page(next(batches(chain([first], upcoming), page_rows)), GROUP_BYTES)
            for row in rows:
                if (row.run_id, row.seq) != (runs[done].run_id, after + 1) or row.published_us is None:
                    raise _Gap(runs[done].run_id)
                done, after = (done + 1, 0) if row.seq == runs[done].last_seq else (done, row.seq)
            if not rows:
                raise _Gap(runs[done].run_id)
            await self._vault.do(spool.add, rows)
            # Large rows come few at a time: what is asked for beyond them is read for nothing.
            page_rows = max(50, min(GROUP_ROWS, 2 * len(rows)))
            if spool.data_bytes > OBJECT_BYTES:
                del runs[done + (1 if after else 0) :]

    async def _trim(self, age_seconds: float) -> tuple[int, list[str]]:
        """Delete the rows of runs that have a copy, but for the last of each.

        Return how many there were, and which objects are not there: their runs' rows stay.
        """
        deleted, whole, last = 0, {"": True}, ""
        while found := await self._archives.untrimmed(age_seconds, last, TRIM_RUNS):
            last = found[-1].run_id
            for run in found:
                if run.object not in whole:
                    whole[run.object] = await is_whole(self._vault, run.object, run.size_bytes)
            safe = [run for run in found if whole[run.object]]
            for batch in batches([(run.run_id, 0, run.events - 1) for run in safe], TRIM_ROWS):
                deleted += await self._archives.trim(batch)
            if safe:
                await self._archives.mark_trimmed([run.run_id for run in safe])
        return deleted, sorted(name for name, is_there in whole.items() if not is_there)

    async def _put_back(self, held: Held) -> int:
        """Insert what is missing, from the last row down: the rows in Postgres are a suffix at every moment."""
        vault, name, size = self._vault, held.object, held.size_bytes
        missing = (await self._archives.first_seq(held.run_id) or held.events + 1) - 1
        restored = 0
        try:
            while missing > 0:
                last_row = held.first_row + missing - 1
                number = await vault.do(vault.group_of, name, size, last_row)
                start, group = await vault.do(vault.group, name, size, number)
                rows = group[max(0, held.first_row - start) : last_row - start + 1]
                restored += await self._archives.restore(held.run_id, rows)
                missing -= len(rows)
        except ObjectGone:
            raise ArchiveMismatch(
                f"the archive at {vault.url} has lost {name}, which has run {held.run_id!r}"
            ) from None
        return restored

    async def _digest(self, held: Held) -> tuple[int, bytes]:
        digest = Digest()
        after = 0
        while rows := await self._archives.page([(held.run_id, after, after + GROUP_ROWS)], GROUP_BYTES):
            await self._vault.do(digest.add, rows)
            after = rows[-1].seq
        (placed,) = digest.placed()
        return placed.events, placed.sha256
