"""The whole way at full speed: one server process whose 100 runs emit as fast as they can, one client for each."""

from __future__ import annotations

import asyncio

from tailrace.bench import limits
from tailrace.bench.children import PATIENCE_SECONDS
from tailrace.bench.load import Plan
from tailrace.bench.place import Place
from tailrace.bench.row import Figure, Figures, Goal, Reference, Row
from tailrace.bench.server import Served, loading, serving, stream_path
from tailrace.bench.statements import statement

RUNS = 100
LIMIT = "bare group commit, nothing delivered"


async def whole_way(place: Place) -> Figures:
    """Flood for some seconds, follow every run over HTTP to its end, and time every event of one client in five."""
    async with place.fresh() as fresh, serving(fresh) as served:
        gate = fresh.gate()
        ids = await served.start("flood", [{"gate": str(gate), "seconds": fresh.scale.seconds}] * RUNS)
        plan = Plan(
            "127.0.0.1", served.port, [("all", stream_path(run_id)) for run_id in ids],
            seconds=fresh.scale.seconds + PATIENCE_SECONDS, timed_every=5,
        )  # fmt: skip
        async with loading(fresh, plan) as load:
            await begun(served, ids)
            server_before, postgres_before = served.cpu()
            gate.touch()
            arrived = (await load.arrived())["all"]
            server_after, postgres_after = served.cpu()
        sent = await persisted(served, ids) - 2 * RUNS
    figures = {
        "rate": arrived.received / arrived.seconds,
        "p50": arrived.p50_ms,
        "p99": arrived.p99_ms,
        "lost": float(sent - arrived.received),
    }
    if server_before is not None and server_after is not None:
        figures["cpu"] = (server_after - server_before) * 1e6 / arrived.received
    if postgres_before is not None and postgres_after is not None:
        figures["postgres"] = (postgres_after - postgres_before) * 1e6 / arrived.received
    return figures


async def begun(served: Served, ids: list[str]) -> None:
    """Wait until all these runs are executed."""
    async with served.place.database() as database, database.connection() as connection:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found = await connection.fetchrow(statement("persisted", served.place.schema), ids)
                if found is not None and found["begun"] == len(ids):
                    return
                await asyncio.sleep(0.02)


async def persisted(served: Served, ids: list[str]) -> int:
    """Return how many events these runs have."""
    async with served.place.database() as database, database.connection() as connection:
        found = await connection.fetchrow(statement("persisted", served.place.schema), ids)
        return int(found["events"]) if found is not None else 0


ROW = Row(
    name="pipeline",
    title="Append, publish, deliver over HTTP: one process, 100 runs at full speed, a client each",
    figures=(
        Figure("rate", "rate", "events/s", better="more"),
        Figure("p50", "lag, p50", "ms"),
        Figure("p99", "lag, p99", "ms"),
        Figure("cpu", "CPU of the server", "s per million events"),
        Figure("postgres", "CPU of Postgres", "s per million events"),
        Figure("lost", "persisted and not received", "events"),
    ),
    ours=whole_way,
    references=(Reference(LIMIT, limits.group_commit),),
    goals=(
        Goal("rate", at_least=40_000),
        Goal("p99", at_most=50),
        Goal("lost", at_most=0),
    ),
)
