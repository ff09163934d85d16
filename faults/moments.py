"""The moments of a fault: when one can be done, whom it hits, and what can be seen of it from outside."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Container
from dataclasses import dataclass

from faults.load import Load
from faults.readers import Reader
from faults.servers import Server
from faults.table import PASSING
from faults.world import World

# A moment that has to be hit, such as a lease being held, is waited for this long.
MOMENT_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Done:
    """A fault that was done and healed: when it began, what it hit, and what proves that it bit."""

    at: float
    at_ms: int
    affected: list[Reader]
    proof: str | None


class Beginning:
    """The moment before a fault, and the clients that it will hit: of ``runs``, or all that are under way."""

    def __init__(self, load: Load, runs: Container[str] | None = None, *, affected: list[Reader] | None = None) -> None:
        watching = [reader for reader in load.readers if under_way(reader)]
        of_runs = [reader for reader in watching if runs is None or reader.run_id in runs]
        self._affected = affected if affected is not None else of_runs
        self._at = time.monotonic()
        self._at_ms = time.time_ns() // 1_000_000

    def proved(self, proof: str | None) -> Done:
        """Say what proves that the fault bit."""
        return Done(self._at, self._at_ms, self._affected, proof)


def under_way(reader: Reader) -> bool:
    """Whether a client has received something and more is to come."""
    return bool(reader.seqs) and not reader.ended


async def holding(world: World, rng: random.Random) -> tuple[Server, dict[str, int]]:
    """Choose a worker that holds leases; return it with the epochs of its runs."""
    workers = world.of("worker")
    rng.shuffle(workers)
    deadline = time.monotonic() + MOMENT_SECONDS
    while True:
        for worker in workers:
            if (held := await world.table.held_by(worker.pid)) or time.monotonic() > deadline:
                return worker, held
        await asyncio.sleep(0.05)


async def risen(world: World, held: dict[str, int], seconds: float) -> int:
    """Wait until an epoch has risen above what it was; return how many have."""
    deadline = time.monotonic() + seconds
    while True:
        epochs = await world.table.epochs(list(held))
        rose = sum(epochs[run_id] > epoch for run_id, epoch in held.items())
        if rose or time.monotonic() > deadline:
            return rose
        await asyncio.sleep(0.1)


async def in_transaction(world: World, server: Server) -> list[int]:
    """Return the ports of the backends in which a process has a transaction open."""
    rows = await world.table.rows(
        "select client_port from pg_stat_activity where state = 'idle in transaction' and client_port = any($1)",
        server.link.backend_ports,
    )
    return [row["client_port"] for row in rows]


async def backend_ports(world: World) -> list[int]:
    """Return the ports of all backends, none when Postgres is away."""
    try:
        rows = await world.table.rows("select client_port from pg_stat_activity where application_name = 'tailrace'")
    except PASSING:
        return []
    return [row["client_port"] for row in rows]


async def restart(servers: list[Server]) -> None:
    """Start processes and wait until they are ready."""
    for server in servers:
        server.start()
    for server in servers:
        await server.ready()


def killed_all(servers: list[Server], codes: list[int]) -> str | None:
    """Return the proof that all were killed, None when one ended otherwise."""
    if any(code != -signal.SIGKILL for code in codes):
        return None
    return " and ".join(f"{server.name} ended with {code}" for server, code in zip(servers, codes, strict=True))
