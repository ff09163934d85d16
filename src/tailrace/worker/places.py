"""Places: how many runs this worker may still take, and those that it may have without knowing.

A place is taken by a run in progress, by a claim on its way, by a start on its way that is to be born under this
worker's lease (docs/adr/0027), or by such a start whose answer was lost.  Of the last kind nobody executes the run, if
it is there at all: it is given back as soon as Postgres answers, before anything is claimed, and its place with it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from tailrace.store.leases import Leases

# The epoch of a run that was born with a lease.
BORN_EPOCH = 1


class Places:
    """Counts what is on its way to a worker that executes at most ``concurrency`` runs."""

    def __init__(self, worker: str, leases: Leases, concurrency: int) -> None:
        self._worker = worker
        self._leases = leases
        self._concurrency = concurrency
        self._unsure: set[str] = set()
        self.claiming = 0
        self.starting = 0

    def room(self, executing: int) -> int:
        """Return how many places are free beside so many runs in progress."""
        return self._concurrency - executing - self.claiming - self.starting - len(self._unsure)

    @property
    def unsure(self) -> dict[str, int]:
        """The epochs of the leases that this worker may have and executes no run for."""
        return dict.fromkeys(self._unsure, BORN_EPOCH)

    def unknown(self, run_ids: Iterable[str]) -> None:
        """These runs may have been born under a lease, and are not executed."""
        self._unsure.update(run_ids)

    async def give_back_once(self, executing: Container[str]) -> None:
        """Give back the leases that are not known of; raise ``DatabaseUnavailable`` and keep them if that fails.

        :param executing: runs that this worker has by now: the lost start was repeated, and claimed.
        """
        if self._unsure:
            told = list(self._unsure)
            epochs = {run_id: BORN_EPOCH for run_id in told if run_id not in executing}
            await self._leases.release(epochs, worker=self._worker)
            self._unsure.difference_update(told)
