"""What this process has committed and not yet published: a short memory that spares the outbox to read it back.

It holds, run by run, events that follow each other without a gap, and only a bounded number of them.  What has no
place here the publisher reads from the database, which has everything.  An answer to a commit may come after the
publisher has read those events from the database, so it also remembers how far runs were published from there.
"""

from __future__ import annotations

from collections.abc import Collection

from tailrace.model.event import StoredEvent
from tailrace.store.events import RunAppend
from tailrace.store.outbox import Unpublished

# What a few passes publish; a publisher that is further behind reads from the database.
FRESH_MAX_EVENTS = 10_000
FRESH_MAX_BYTES = 32 * 2**20
# Runs whose last publication from the database is remembered; one that is forgotten too early costs one more look.
READ_MAX_RUNS = 10_000


class Fresh:
    """Events by run; the run that waits longest comes first."""

    def __init__(self) -> None:
        self._runs: dict[str, list[StoredEvent]] = {}
        self._read: dict[str, int] = {}
        self._events = 0
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._runs

    @property
    def run_ids(self) -> list[str]:
        """The runs that have events here."""
        return list(self._runs)

    def add(self, add: RunAppend) -> bool:
        """Remember what was committed; return False if it has no place here."""
        if self._events >= FRESH_MAX_EVENTS or self._bytes >= FRESH_MAX_BYTES:
            return False
        events = add.events
        if (read := self._read.pop(add.run_id, 0)) >= add.first_seq:
            events = events[read + 1 - add.first_seq :]
            if not events:
                self._read[add.run_id] = read
                return True
        known = self._runs.get(add.run_id)
        if known is None:
            self._runs[add.run_id] = events
        elif known[-1].seq + 1 == events[0].seq:
            known += events
        else:
            return False
        self._count(len(events), _size(events))
        return True

    def front(self, run_id: str) -> int | None:
        """Return the seq of a run's first event here, None when it has none."""
        events = self._runs.get(run_id)
        return events[0].seq if events is not None else None

    def take(
        self, *, runs_max: int, run_events_max: int, bytes_max: int, but: Collection[str] = ()
    ) -> list[Unpublished]:
        """Take the next events of at most ``runs_max`` runs other than ``but``, at most ``run_events_max`` of each."""
        taken = []
        limit = self._bytes - bytes_max
        for run_id in [run_id for run_id in self._runs if run_id not in but][:runs_max]:
            events = self._runs.pop(run_id)
            if len(events) > run_events_max:
                self._runs[run_id] = events[run_events_max:]
                events = events[:run_events_max]
            self._count(-len(events), -_size(events))
            taken.append(Unpublished(run_id, events[0].seq, events, None))
            if self._bytes <= limit:
                break
        return taken

    def was_read(self, run_id: str, last_seq: int) -> None:
        """Drop events of a run up to ``last_seq``: they were published from the database."""
        events = self._runs.get(run_id)
        if events is not None and events[0].seq <= last_seq:
            count = min(len(events), last_seq + 1 - events[0].seq)
            self._count(-count, -_size(events[:count]))
            del events[:count]
            if not events:
                del self._runs[run_id]
        if run_id not in self._runs:
            self._read[run_id] = last_seq
            if len(self._read) > READ_MAX_RUNS:
                del self._read[next(iter(self._read))]

    def _count(self, events: int, size: int) -> None:
        self._events += events
        self._bytes += size


def _size(events: list[StoredEvent]) -> int:
    size = 0
    for event in events:
        if event.data is not None:
            size += len(event.data)
    return size
