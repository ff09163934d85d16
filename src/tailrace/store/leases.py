"""The leases: claim, renew, release; and what a worker must know of the runs it holds.

Database time decides, never the host's clock: every deadline is computed and compared in SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg

from tailrace.model.run import Lease
from tailrace.store.database import Database

# Nearly a century: who sets more means never, and Postgres has no date for "now" minus a few millennia.
UNSEEN_MAX_SECONDS = 3e9
# Names of agents that are remembered; each start for an agent of another process would else ask for it.
KNOWN_MAX = 1000


class Leases:
    """Repository of the leases, which are columns of ``runs``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: set[str] = set()

    async def claim(self, *, worker: str, agents: Sequence[str], limit: int, lease_seconds: float) -> list[Lease]:
        """Claim up to ``limit`` runs, expired leases first, and bump the epoch of each."""
        rows = await self._database.rows("lease_claim", worker, list(agents), limit, lease_seconds)
        return [_lease(row) for row in rows]

    async def claim_orphans(
        self, *, worker: str, limit: int, lease_seconds: float, started_seconds: float, queued_seconds: float | None
    ) -> list[Lease]:
        """Claim up to ``limit`` runs whose agents are gone, and bump the epoch of each, so that they can be ended.

        :param started_seconds: a started run without a lease is an orphan when its agent was not served for so long.
        :param queued_seconds: so is a queued run that has waited for so long as well; None leaves the queue alone.
        """
        if queued_seconds is not None:
            queued_seconds = min(queued_seconds, UNSEEN_MAX_SECONDS)
        rows = await self._database.rows(
            "orphans_claim", worker, limit, lease_seconds, min(started_seconds, UNSEEN_MAX_SECONDS), queued_seconds
        )
        return [_lease(row) for row in rows]

    async def renew(self, epochs: Mapping[str, int], lease_seconds: float) -> set[str]:
        """Prolong the leases of the runs in ``epochs`` and return the ids of those still held."""
        rows = await self._database.rows("lease_renew", list(epochs), list(epochs.values()), lease_seconds)
        return {row["id"] for row in rows}

    async def release(self, epochs: Mapping[str, int], *, worker: str) -> None:
        """Give the worker's leases back, so that another one takes the runs at once."""
        await self._database.rows("lease_release", list(epochs), list(epochs.values()), worker)

    async def held(self, worker: str) -> dict[str, int]:
        """Return the epochs of the leases, over or not, that stand under this worker's name, by run."""
        return {row["id"]: row["epoch"] for row in await self._database.rows("lease_held", worker)}

    async def outlived(self, epochs: Mapping[str, int]) -> None:
        """Tell that these leases ended while their worker lived and could not reach Postgres: nobody has died."""
        await self._database.rows("lease_outlived", list(epochs), list(epochs.values()))

    async def cancelled(self, run_ids: Sequence[str]) -> set[str]:
        """Return which of the runs were asked to end."""
        return {row["id"] for row in await self._database.rows("lease_cancelled", list(run_ids))}

    async def kept_steps(self, run_id: str) -> dict[str, str]:
        """Return the results that a resumed run need not compute again: JSON text by step key."""
        return {row["key"]: row["result"] for row in await self._database.rows("steps_kept", run_id)}

    async def record_agents(self, agents: Sequence[str]) -> None:
        """Record that these agents are served now.

        Any API process accepts runs for an agent that was ever recorded, and no worker gives its runs up for as long
        as the record is fresh.
        """
        await self._database.rows("agents_seen", list(agents))

    async def known_agents(self) -> list[str]:
        """Return the names of up to 100 agents that some worker has served."""
        return [row["name"] for row in await self._database.rows("agents_known")]

    async def agent_known(self, agent: str) -> bool:
        """Whether some worker has served this agent; once it has, it has, and Postgres is not asked again."""
        if agent in self._known:
            return True
        known: bool = await self._database.value("agent_known", agent)
        if known and len(self._known) < KNOWN_MAX:
            self._known.add(agent)
        return known


def _lease(row: asyncpg.Record) -> Lease:
    return Lease(
        run_id=row["id"],
        agent=row["agent"],
        input=row["input"],
        epoch=row["epoch"],
        last_seq=row["last_seq"],
        takeovers=row["takeovers"],
        resumed=row["resumed"],
        cancel_requested=row["cancel_requested"],
        created_at_seconds=row["created"],
        traceparent=row["traceparent"],
    )
