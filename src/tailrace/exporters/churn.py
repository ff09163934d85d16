"""Which run's clients reconnect most: one number, in bounded memory, without a run id in any label."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

# The operators' bound is ten in a minute.
WINDOW_SECONDS = 60.0
# Runs that are remembered, and reconnects of each: a few megabytes at the most.  A run whose clients flap is always
# among those that reconnected last, so it is not the one that is forgotten.
RUNS_MAX = 2000
COUNT_MAX = 100


class Churn:
    """Counts reconnects of each run within the last minute.

    :param clock: gives monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # The run whose last reconnect is longest ago comes first.
        self._runs: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run_id: str) -> None:
        """Count a reconnect of this run, now."""
        times = self._runs.setdefault(run_id, deque(maxlen=COUNT_MAX))
        times.append(self._clock())
        self._runs.move_to_end(run_id)
        if len(self._runs) > RUNS_MAX:
            self._runs.popitem(last=False)

    def most(self) -> int:
        """Return the largest number of reconnects of one run within the last minute, and forget older ones."""
        since = self._clock() - WINDOW_SECONDS
        while self._runs and next(iter(self._runs.values()))[-1] < since:
            self._runs.popitem(last=False)
        for times in self._runs.values():
            while times[0] < since:
                times.popleft()
        return max(map(len, self._runs.values()), default=0)
