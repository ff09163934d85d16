"""Reads events from wherever they lie: Postgres first, and the archive for those that have left it.

Rows of an archived run in Postgres are a suffix of it at every moment, also while they are deleted or restored.  So
whether the first row that is asked for is there tells whether all that follow are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tailrace.errors import ArchiveUnavailable, PositionGone
from tailrace.model.event import StoredEvent
from tailrace.store.archives import Archives, Held
from tailrace.store.database import Database
from tailrace.store.events import Events, Tail

if TYPE_CHECKING:
    from tailrace.archive.vault import Vault

PAGE_MAX_BYTES = 256 * 2**10


class ArchivedEvents(Events):
    """``Events`` that also finds what is archived; ``vault`` is None where nobody said where the archive is."""

    def __init__(self, database: Database, archives: Archives, vault: Vault | None) -> None:
        super().__init__(database)
        self._archives = archives
        self._vault = vault

    async def page(self, run_id: str, *, after: int, upto: int, limit: int, max_bytes: int) -> list[StoredEvent]:
        """Return events as ``Events.page`` does, from the archive when they are there.

        :raises ArchiveUnavailable: the archive is away.
        :raises PositionGone: they are nowhere any more.
        """
        found = await super().page(run_id, after=after, upto=upto, limit=limit, max_bytes=max_bytes)
        if after >= upto or (found and found[0].seq == after + 1):
            return found
        archived = await self._from_archive(run_id, after, upto, limit, max_bytes)
        return found if archived is None else archived

    async def of_many(self, wanted: Mapping[str, tuple[int, int]], limit: int) -> dict[str, list[StoredEvent]]:
        """Return events as ``Events.of_many`` does, from the archive when they are there."""
        found = await super().of_many(wanted, limit)
        for run_id, (after, upto) in wanted.items():
            if after < upto and not (found[run_id] and found[run_id][0].seq == after + 1):
                archived = await self._from_archive(run_id, after, upto, limit, PAGE_MAX_BYTES)
                found[run_id] = found[run_id] if archived is None else archived
        return found

    async def require(self, run_id: str, position: int, tail: Tail) -> None:
        """Raise as ``page`` does unless what follows ``position`` can be had, or never was.

        Before a stream begins: once it has, its status cannot tell.
        """
        if tail.archived and position < tail.published_seq:
            await self.page(run_id, after=position, upto=position + 1, limit=1, max_bytes=1)

    async def _from_archive(
        self, run_id: str, after: int, upto: int, limit: int, max_bytes: int
    ) -> list[StoredEvent] | None:
        """Return archived events, None when the run has no archive copy: then a missing row is a gap."""
        gone: str | None = None
        while (held := await self._archives.of_run(run_id)) is not None:
            if held.object == gone:
                raise await self._gone(held)
            events = await self._read(held, after, min(upto, held.events, after + limit), max_bytes)
            if events is not None:
                return events
            # The object may have been replaced by one without a purged run, after we were told of it.
            gone = held.object
        return None

    async def _read(self, held: Held, after: int, upto: int, max_bytes: int) -> list[StoredEvent] | None:
        """Return events from the run's object, None when it is not there; ends where ``Events.page`` would."""
        if self._vault is None:
            raise ArchiveUnavailable(
                f"run {held.run_id!r} is archived, and this process was not told where: set TAILRACE_ARCHIVE_URL"
            )
        from tailrace.archive.vault import ObjectGone  # noqa: PLC0415 - optional; there is a vault, so it is installed

        events: list[StoredEvent] = []
        while after + len(events) < upto:
            row = held.first_row + after + len(events)
            try:
                found = await self._vault.do(
                    self._vault.read, held.object, held.size_bytes, row, upto - after - len(events)
                )
            except ObjectGone:
                return None
            for event in found:
                max_bytes -= len(event.data.encode()) if event.data is not None else 0
                if events and max_bytes < 0:
                    return events
                events.append(event)
        return events

    async def _gone(self, held: Held) -> PositionGone:
        first = await self._archives.first_seq(held.run_id) or held.events + 1
        return PositionGone(
            f"the events of run {held.run_id!r} before seq {first} are neither in Postgres nor in the archive any more",
            first - 1,
        )
