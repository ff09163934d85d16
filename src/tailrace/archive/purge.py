"""Removes runs with all that is known of them, in Postgres and in the archive: the right to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailrace.archive.turn import PATIENT_SECONDS, turn
from tailrace.errors import ArchiveUnavailable, RunActive, RunNotFound
from tailrace.store.archives import Archives, Purgeable

if TYPE_CHECKING:
    from tailrace.archive.vault import Vault

PAGE_RUNS = 1000
# Rows that one statement deletes.
DELETE_ROWS = 5000


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge has removed: runs, their rows in Postgres, and objects that were removed or written anew."""

    runs: int
    rows_deleted: int
    objects: int


class Purger:
    """Purges; ``vault`` may be None where no run to be purged is archived."""

    def __init__(self, archives: Archives, vault: Vault | None) -> None:
        self._archives = archives
        self._vault = vault

    async def purge(self, run_ids: Sequence[str], tenant: str | None = None) -> Purged:
        """Remove the runs that are named, or all of the tenant; killed on the way, it can be repeated.

        :raises RunNotFound: a named run does not exist; nothing was removed.
        :raises RunActive: one has not ended, or is not published to its end; nothing was removed.
        :raises ArchiveUnavailable: one is archived, and the store is away.
        """
        async with turn(self._archives, wait_seconds=PATIENT_SECONDS):
            runs = await self._find(run_ids, tenant)
            purged = {run.run_id for run in runs}
            objects = {run.object for run in runs if run.object is not None}
            await self._forget(sorted(objects), purged)
            deleted = 0
            for run in runs:
                for after in range(0, run.last_seq, DELETE_ROWS):
                    deleted += await self._archives.purge_events(run.run_id, after, after + DELETE_ROWS)
            ordered = sorted(purged)
            for start in range(0, len(ordered), PAGE_RUNS):
                await self._archives.purge_runs(ordered[start : start + PAGE_RUNS])
        return Purged(len(runs), deleted, len(objects))

    async def _find(self, run_ids: Sequence[str], tenant: str | None) -> list[Purgeable]:
        found: list[Purgeable] = []
        while page := await self._archives.purgeable(run_ids, tenant, found[-1].run_id if found else "", PAGE_RUNS):
            found += page
        if missing := sorted(set(run_ids) - {run.run_id for run in found}):
            raise RunNotFound(f"there is no run {missing[0][:128]!r}; nothing was purged")
        for run in found:
            if not run.ended:
                raise RunActive(f"run {run.run_id!r} has not ended: cancel it first; nothing was purged")
            if not run.published:
                raise RunActive(f"run {run.run_id!r} is not published to its end yet; nothing was purged")
        return found

    async def _forget(self, objects: Sequence[str], purged: set[str]) -> None:
        """Let the archive hold nothing of the runs, nor of them what a killed turn has left there."""
        if self._vault is None:
            if objects or await self._archives.unstored_objects():
                raise ArchiveUnavailable("some of it is in the archive: set TAILRACE_ARCHIVE_URL to where that is")
            return
        # Optional; there is a vault, so it is installed.
        from tailrace.archive.objects import clean  # noqa: PLC0415
        from tailrace.archive.rewrite import rewrite  # noqa: PLC0415

        await self._vault.do(self._vault.prepare, await self._archives.stored_objects())
        await clean(self._archives, self._vault)
        for name in objects:
            await rewrite(self._archives, self._vault, name, purged)
