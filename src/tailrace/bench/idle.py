"""Idle streams: what 2,000 of them hold of the server's memory."""

from __future__ import annotations

import os

from tailrace.bench.children import PATIENCE_SECONDS, BenchError, resident_bytes
from tailrace.bench.load import Plan
from tailrace.bench.pipeline import begun
from tailrace.bench.place import Place
from tailrace.bench.row import Figure, Figures, Goal, Row
from tailrace.bench.server import loading, serving, stream_path

RUNS = 100
# Streams that are opened before and stay, so that what the first ones of a process take is not counted.
WARM = 100


def missing() -> str | None:
    """Return why it cannot be measured here."""
    return None if resident_bytes(os.getpid()) is not None else "this system does not tell a process's memory"


async def ours(place: Place) -> Figures:
    """Open streams on runs that wait, and compare the server's memory before and after."""
    async with place.fresh() as fresh, serving(fresh) as served:
        ids = await served.start("idle", [{}] * RUNS)
        await begun(served, ids)
        paths = [stream_path(run_id) for run_id in ids]
        return await growth(fresh, served.port, served.pid, paths)


async def growth(place: Place, port: int, pid: int, paths: list[str], headers: str = "") -> Figures:
    """Return the KiB a stream that a server's process grows by."""
    async with loading(place, _plan(port, paths, WARM, headers)):
        before = resident_bytes(pid)
        async with loading(place, _plan(port, paths, place.scale.streams, headers)):
            after = resident_bytes(pid)
    if before is None or after is None:
        raise BenchError("the server ended while its memory was measured")
    return {"memory": (after - before) / 1024 / place.scale.streams}


def _plan(port: int, paths: list[str], streams: int, headers: str) -> Plan:
    chosen = [("all", paths[number % len(paths)]) for number in range(streams)]
    # More than ever comes: the streams stay open until the block ends.
    return Plan("127.0.0.1", port, chosen, PATIENCE_SECONDS * 2, expected=1 << 30, headers=headers)


ROW = Row(
    name="idle",
    title="Memory of an idle stream, with 2,000 open",
    figures=(Figure("memory", "memory", "KiB a stream"),),
    ours=ours,
    missing=missing,
    goals=(Goal("memory", at_most=10),),
)
