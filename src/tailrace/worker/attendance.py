"""Attendance: which agents are served at present, and for how long this worker has been able to tell.

Every worker records, three times a lease, that its agents are served (``agents.seen_at``, in database time).  An agent
whose record is older than two leases has no live worker.  That conclusion needs a witness: after an outage of Postgres,
or of every worker, all records are old, and the first worker to come back must not take the others for gone.  So a
worker concludes nothing until it has itself recorded its own agents, without an interruption of a lease or more, for as
long as the silence it judges: whoever lives had the same chance to be seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tailrace.store.leases import Leases


class Attendance:
    """Keeps the record of this worker's agents fresh, and knows how long it has done so without interruption."""

    def __init__(
        self,
        agents: Sequence[str],
        leases: Leases,
        *,
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agents = agents
        self._leases = leases
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._since: float | None = None
        self._latest = 0.0

    async def record_once(self) -> bool:
        """Record that the agents are served; return False, for there is nothing to do again at once."""
        before = self._clock()
        await self._leases.record_agents(self._agents)
        if self._since is None or before - self._latest > self._lease_seconds:
            self._since = before
        self._latest = before
        return False

    def witnessed_seconds(self) -> float:
        """Return for how long, up to now, no lease has passed without a record of this worker's."""
        now = self._clock()
        if self._since is None or now - self._latest > self._lease_seconds:
            return 0.0
        return now - self._since
