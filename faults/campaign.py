"""The campaign: rounds of load, fault, healing and checking, until the time is over.

When the time is over and a class has not been proved, for the machine is slow or its fault did not bite, the campaign
goes on for a bounded grace with those alone (``faults/schedule.py``).

A round starts runs at a steady rate and watches each with two clients; does one fault while they are under way; and
then waits until every run has ended and every client has come to its stream's end.  What has not ended 30 s after the
healing is stuck, which is a violation like any other.  Rounds share the processes and the tables, so what a fault
leaves behind meets the next one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import httpx2

import tailrace
from faults.checks import Violation, fence_violations, log_violations, token_violations
from faults.classes import CLASSES, Fault, no_fault, skipped
from faults.load import Load, clients_of
from faults.moments import Done
from faults.schedule import Schedule
from faults.table import PASSING, tokens_of
from faults.world import World

STUCK_SECONDS = 30.0
LOOK_SECONDS = 0.05
# A look that took longer counts as so long: nothing can end while the machine stands still.
LOOK_MAX_SECONDS = 2.0
# A round takes some 10 s on a quiet machine and at most a minute: three minutes and this end within five.
GRACE_SECONDS = 75.0


@dataclass(slots=True)
class Round:
    """What one round did and found.  ``recoveries`` are seconds, one for each client that the fault hit."""

    name: str
    proof: str | None = None
    runs: int = 0
    events: int = 0
    deliveries: int = 0
    acknowledged: int = 0
    reconnects: int = 0
    healed_seconds: float = 0.0
    recoveries: list[float] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)


class Campaign:
    """Chooses faults by the seed and performs the rounds; ``tell`` is given each round as it ends."""

    def __init__(self, world: World, rng: random.Random, names: Sequence[str]) -> None:
        self.skipped = {name: why for name, why in skipped(world).items() if name in names}
        self.rounds: list[Round] = []
        self.grace_rounds = 0
        self._world = world
        self._rng = rng
        self.schedule = Schedule([name for name in names if name not in self.skipped], rng)

    async def perform(self, seconds: float, *, until_violation: bool = False) -> None:
        """Perform rounds for this long, and for a grace while there are classes to be proved."""
        deadline = time.monotonic() + seconds
        async with clients_of(self._world.of("api")) as (clients, http):
            await self._round("none", no_fault, clients, http)
            while (now := time.monotonic()) < deadline + GRACE_SECONDS:
                wanted = self.schedule.wanted(over=now >= deadline)
                if wanted is None:
                    return
                self.grace_rounds += now >= deadline
                await self._round(wanted, CLASSES[wanted], clients, http)
                self.schedule.done(wanted, proved=self.rounds[-1].proof is not None)
                if until_violation and self.rounds[-1].violations:
                    return

    async def _round(
        self, name: str, fault: Fault, clients: list[tuple[str, tailrace.Client]], http: httpx2.AsyncClient
    ) -> None:
        prefix = f"r{len(self.rounds):04d}."
        load = Load(prefix, self._rng, clients, http)
        heads: dict[tuple[str, int], int] = {}
        starting = asyncio.ensure_future(load.keep_starting())
        watching = asyncio.ensure_future(self._world.table.watch_heads(prefix, heads))
        this = Round(name)
        try:
            await asyncio.sleep(self._rng.uniform(1.5, 3.0))
            done = await fault(self._world, load, self._rng)
            await asyncio.sleep(self._rng.uniform(0.5, 1.0))
            load.stop()
            await starting
            began = time.monotonic()
            await self._heal(load, prefix)
            this.healed_seconds = time.monotonic() - began
        finally:
            for task in (starting, watching):
                task.cancel()
            await asyncio.wait({starting, watching})
            await load.close()
        await self._check(this, load, heads)
        this.proof = done.proof
        this.recoveries = _recoveries(done)
        self.rounds.append(this)
        self.tell(this)

    def tell(self, this: Round) -> None:
        """Say how a round went."""
        proof = this.proof or "NOT PROVED"
        print(
            f"{len(self.rounds):3d} {this.name:24s} {this.runs:3d} runs {this.events:6d} events {this.deliveries:6d} "
            f"deliveries  done {this.healed_seconds:4.1f} s after healing  {proof}",
            flush=True,
        )
        for violation in this.violations[:20]:
            print(f"    {violation.kind}: {violation.run_id}: {violation.detail}", flush=True)

    async def _heal(self, load: Load, prefix: str) -> None:
        """Wait until everything has ended and is published, or the time for it is over."""
        left = STUCK_SECONDS
        while left > 0:
            began = time.monotonic()
            if load.done:
                with suppress(*PASSING):
                    if all(
                        run["finished_at"] and run["next_seq"] > run["last_seq"]
                        for run in await self._world.table.runs(prefix)
                    ):
                        return
            await asyncio.sleep(LOOK_SECONDS)
            left -= min(time.monotonic() - began, LOOK_MAX_SECONDS)

    async def _check(self, this: Round, load: Load, heads: dict[tuple[str, int], int]) -> None:
        table = self._world.table
        runs, events = await table.runs(load.prefix), await table.events(load.prefix)
        acknowledged = self._world.acknowledged(load.prefix)
        last = {run["id"]: run["last_seq"] for run in runs}
        found = this.violations
        for run in runs:
            found += log_violations(run, events.get(run["id"], []))
        found += token_violations(acknowledged, tokens_of(events))
        found += fence_violations(heads, (event for rows in events.values() for event in rows))
        for run_id, started in load.runs.items():
            if started.refusal is not None:
                found.append(Violation("refused", run_id, f"the start was refused: {started.refusal}"))
            elif not started.acknowledged:
                found.append(Violation("stuck", run_id, "the start was never acknowledged"))
            elif run_id not in last:
                found.append(Violation("lost", run_id, "the start was acknowledged and there is no such run"))
        for reader in load.readers:
            found += reader.violations(last.get(reader.run_id, 0))
        this.runs = len(runs)
        this.events = sum(map(len, events.values()))
        this.deliveries = sum(len(reader.seqs) for reader in load.readers)
        this.acknowledged = len(acknowledged)
        this.reconnects = sum(max(0, reader.connections - 1) for reader in load.readers)


def _recoveries(done: Done) -> list[float]:
    """For each client that the fault hit: from the fault to the first event received that was emitted after it."""
    found = []
    for reader in done.affected:
        later = [arrival.at for arrival in reader.arrivals if arrival.at > done.at and arrival.ts > done.at_ms]
        if later:
            found.append(min(later) - done.at)
    return found
