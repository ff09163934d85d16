"""Places: how many runs this worker may still take, and the leases that it may have without knowing.

A place is taken by a run in progress, by a claim on its way, by a start on its way that is to be born under this
worker's lease (docs/adr/0027), or by one of these whose answer was lost.

A claim or a start whose answer was lost may have given this worker a lease for a run that it does not execute: at once,
or a while later, for Postgres may execute a statement that its client has given up.  Left alone, the lease would run
out and count as a death (docs/adr/0017).  So the worker looks for leases under its own name and gives back those that
it does not know of, before it claims anything, and again until it has looked for as long as a lease lasts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tailrace.errors import DatabaseUnavailable
from tailrace.store.leases import Leases
from tailrace.worker.execution import Execution

# A lease that was found counts as unknown after so long: before, the answer that brings it may be on its way.
UNKNOWN_SECONDS = 0.5


class Places:
    """Counts what is on its way to a worker that executes at most ``concurrency`` runs."""

    def __init__(self, worker: str, leases: Leases, *, concurrency: int, lease_seconds: float) -> None:
        self._worker = worker
        self._leases = leases
        self._concurrency = concurrency
        self._lease_seconds = lease_seconds
        self._lost = 0
        self._losses = 0
        # When Postgres first answered a look after the last loss, and when each unknown lease was first found.
        self._since: float | None = None
        self._found: dict[tuple[str, int], float] = {}
        self._claiming = 0
        # Claims on their way, and starts that are to be born under a lease.
        self.claims = 0
        self.starting = 0
        # Whether there may be leases that this worker does not know of.
        self.looking = False

    def room(self, executing: int) -> int:
        """Return how many places are free beside so many runs in progress."""
        return self._concurrency - executing - self._claiming - self.starting - self._lost - len(self._found)

    @contextmanager
    def claim(self, places: int) -> Iterator[None]:
        """Keep so many places for a claim inside the block, and until it is known what it brought."""
        self.claims += 1
        self._claiming += places
        try:
            yield
        except DatabaseUnavailable as error:
            if error.sent:
                self.lose(places)
            raise
        finally:
            self._claiming -= places
            self.claims -= 1

    def lose(self, places: int) -> None:
        """Take note of an answer that was lost: up to so many runs may have been leased to this worker."""
        self._lost += places
        self._losses += 1
        self.looking = True
        self._since = None

    async def give_back_once(self, executing: Mapping[str, Execution]) -> None:
        """Give back leases that this worker does not know of; raise ``DatabaseUnavailable`` if that fails.

        :param executing: runs in progress, as they are when Postgres has answered.
        """
        if not self.looking:
            return
        lost, losses = self._lost, self._losses
        held = await self._leases.held(self._worker)
        now = asyncio.get_running_loop().time()
        unknown = (
            (run_id, epoch)
            for run_id, epoch in held.items()
            if run_id not in executing or executing[run_id].lease.epoch != epoch
        )
        self._found = {lease: self._found.get(lease, now) for lease in unknown}
        self._lost -= lost
        if self._since is None and losses == self._losses:
            self._since = now
        if sure := [lease for lease, found in self._found.items() if now - found >= UNKNOWN_SECONDS]:
            await self._leases.release(dict(sure), worker=self._worker)
            for lease in sure:
                del self._found[lease]
        self.looking = bool(self._found) or self._since is None or now - self._since < self._lease_seconds
