"""Gaps in logs, each told once: a run stays stuck at one until somebody looks."""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.store.outbox import Unpublished
from tailrace.telemetry import OutboxGap, Telemetry

# Beyond so many nobody needs to hear of one more.
TOLD_MAX = 10_000


class Gaps:
    """What was told already."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._told: set[tuple[str, int]] = set()

    def report(self, taken: Sequence[Unpublished]) -> None:
        """Tell the gaps in what was read that are news."""
        for run in taken:
            expected = run.next_seq + len(run.events)
            if run.gap_at is None or (run.run_id, expected) in self._told or len(self._told) >= TOLD_MAX:
                continue
            self._told.add((run.run_id, expected))
            self._telemetry.tell(OutboxGap(run.run_id, expected, run.gap_at))
