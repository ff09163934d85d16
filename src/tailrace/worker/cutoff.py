"""Cut off: the leases that this worker has lost because it could not reach Postgres, while it was alive.

A run that kills its workers is given up after a bounded number of them, so a take-over counts as a death.  After an
outage of Postgres that is longer than the lease every run is taken over, and nobody has died.  The claimer cannot tell:
whether the worker before it is dead or was cut off looks the same in the tables, and a process that was just started
has seen nothing.  The worker that was cut off can: it is there, and its renewals had no answer.  So it says so as soon
as Postgres answers again, before it claims anything itself (docs/adr/0017).

A worker that was frozen, by the kernel or by an agent that blocks the event loop, has asked for no renewal while the
lease lasted.  It says nothing, and that counts as a death: else such an agent would be called for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tailrace.store.leases import Leases


class CutOff:
    """Keeps which renewals were not answered and which leases were lost by that."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._unanswered: dict[str, int] = {}
        self._lost: dict[str, int] = {}

    def asked(self, epochs: Mapping[str, int]) -> None:
        """Postgres is asked to prolong these leases, which are not over yet; each is unanswered from here on."""
        self._unanswered.update(epochs)

    def answered(self, run_ids: Iterable[str]) -> None:
        """Postgres has said which of these leases were prolonged and which belong to somebody else."""
        for run_id in run_ids:
            self._unanswered.pop(run_id, None)

    def lost(self, run_id: str, epoch: int) -> None:
        """A lease is over by this worker's own clock."""
        if self._unanswered.pop(run_id, None) == epoch:
            self._lost[run_id] = epoch

    async def tell_once(self) -> None:
        """Tell Postgres of the leases that were lost by an outage; what cannot be told is told the next time.

        When the answer to this is lost as well, it is told twice, and one death too many is forgiven.
        """
        if self._lost:
            told = dict(self._lost)
            await self._leases.outlived(told)
            for run_id, epoch in told.items():
                if self._lost.get(run_id) == epoch:
                    del self._lost[run_id]
