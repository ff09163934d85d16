"""Counts what arrived on a stream, seq by seq, so that the last line of the demo is a measurement.  Pure."""

from __future__ import annotations

from collections import Counter


class Tally:
    """How often each seq was received."""

    def __init__(self) -> None:
        self._times: Counter[int] = Counter()

    def add(self, seq: int) -> None:
        """Count one event received."""
        self._times[seq] += 1

    @property
    def seen(self) -> int:
        """How many events were received."""
        return self._times.total()

    def lost(self, last_seq: int) -> int:
        """Return how many of the run's events, 1 to ``last_seq``, were never received."""
        return sum(1 for seq in range(1, last_seq + 1) if seq not in self._times)

    @property
    def twice(self) -> int:
        """How many events were received more than once."""
        return sum(1 for times in self._times.values() if times > 1)
