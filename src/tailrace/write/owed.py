"""What the publisher owes the outbox: runs that the bus has ahead of their marks, and runs that wait for theirs.

Pure: no I/O.  While one statement marks, more is handed over; the next one marks all of it, a line a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tailrace.store.outbox import Unpublished

# What is handed over while a statement marks, before the hand-over waits for it: 2,000 marks take Postgres 20 ms. The
# hand-over that fills it comes on top, which in a flood may be several thousand.
OWED_MAX_EVENTS = 2000
OWED_MAX_BYTES = 8 * 2**20


@dataclass(slots=True)
class Due:
    """What one pass marks.

    :ivar ahead: what the bus has already, each hand-over with its time in milliseconds since the Unix epoch.
    :ivar others: what it gets in this pass, under the lock on its rows.
    :ivar batch: both, one entry a run.
    :ivar apart: runs of which some part does not follow what is in ``batch``.
    """

    ahead: list[tuple[Sequence[Unpublished], float]] = field(default_factory=list)
    others: list[Unpublished] = field(default_factory=list)
    batch: list[Unpublished] = field(default_factory=list)
    apart: set[str] = field(default_factory=set)


class Owed:
    """Collects what is owed until a pass takes all of it."""

    def __init__(self) -> None:
        self._ahead: list[tuple[Sequence[Unpublished], float]] = []
        self._others: list[Unpublished] = []
        self._events = 0
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._ahead or self._others)

    @property
    def is_full(self) -> bool:
        """Whether nothing may be added before a pass has taken what is here."""
        return self._events >= OWED_MAX_EVENTS or self._bytes >= OWED_MAX_BYTES

    @property
    def is_urgent(self) -> bool:
        """Whether something waits for its marks, or for room."""
        return bool(self._others) or self.is_full

    @property
    def run_ids(self) -> set[str]:
        """The runs that are owed something."""
        return {run.run_id for runs in (*(runs for runs, _ in self._ahead), self._others) for run in runs}

    def add_ahead(self, runs: Sequence[Unpublished], at_ms: float) -> None:
        """Remember what the bus has got."""
        self._ahead.append((runs, at_ms))
        self._count(runs)

    def add_others(self, runs: Sequence[Unpublished]) -> None:
        """Remember what the bus is to get with its marks."""
        self._others += runs
        self._count(runs)

    def take(self) -> Due:
        """Take everything."""
        due = Due(self._ahead)
        merged: dict[str, Unpublished] = {}
        for runs, _ in self._ahead:
            for run in runs:
                if not _join(merged, run):
                    due.apart.add(run.run_id)
        for run in self._others:
            # What does not join is not handed over either: it would be marked by nobody, or go out before its turn.
            if _join(merged, run):
                due.others.append(run)
            else:
                due.apart.add(run.run_id)
        due.batch = list(merged.values())
        self._ahead, self._others, self._events, self._bytes = [], [], 0, 0
        return due

    def _count(self, runs: Sequence[Unpublished]) -> None:
        for run in runs:
            self._events += len(run.events)
            self._bytes += sum([len(event.data or "") for event in run.events])


def _join(merged: dict[str, Unpublished], run: Unpublished) -> bool:
    known = merged.get(run.run_id)
    if known is None:
        merged[run.run_id] = run
    elif known.last_seq + 1 == run.next_seq:
        merged[run.run_id] = replace(known, events=[*known.events, *run.events])
    else:
        return False
    return True
