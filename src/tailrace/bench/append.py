"""Durable append through the library: 100 runs in one process, each awaiting every event."""

from __future__ import annotations

import asyncio
import time

from tailrace.app import App
from tailrace.bench import limits
from tailrace.bench.agents import flood, opened
from tailrace.bench.children import PostgresCpu
from tailrace.bench.place import Place
from tailrace.bench.row import Figure, Figures, Goal, Reference, Row
from tailrace.bench.statements import statement
from tailrace.runtime import Role
from tailrace.worker.run import Run

RUNS = 100
LIMIT = "bare group commit"
WORKER_ALONE: tuple[Role, ...] = ("worker",)


async def by_library(place: Place) -> Figures:
    """Flood from an App with the worker's role alone: nothing is published, as nothing is in the reference."""
    async with place.fresh() as fresh:
        return await flooded(fresh)


async def flooded(place: Place) -> dict[str, float]:
    """Flood in the schema of a place, and return the rate, the CPU and what is missing of what was acknowledged."""
    app = App(place.settings())
    gate = place.gate()
    counts: list[int] = []
    here, done = asyncio.Barrier(RUNS + 1), asyncio.Barrier(RUNS + 1)

    @app.agent("flood")
    async def _(run: Run) -> None:
        await here.wait()
        counts.append(await flood(run))
        await done.wait()

    cpu = await PostgresCpu.find(place.url)
    async with app.running(WORKER_ALONE):
        start = app.services().orchestrator.start
        value = {"gate": str(gate), "seconds": place.scale.seconds}
        ids = [(await start("flood", value))[0].id for _ in range(RUNS)]
        await here.wait()
        gate.touch()
        begin = await opened(str(gate))
        postgres_before, own_before = cpu.seconds(), time.process_time()
        await done.wait()
        seconds, own, postgres_after = time.monotonic() - begin, time.process_time() - own_before, cpu.seconds()
    events = sum(counts)
    figures = {"rate": events / seconds, "lost": float(events + RUNS - await _persisted(place, ids))}
    if postgres_before is not None and postgres_after is not None:
        figures["cpu"] = (own + postgres_after - postgres_before) * 1e6 / events
    return figures


async def _persisted(place: Place, ids: list[str]) -> int:
    """Return how many events the runs have, but for those that end them, which some write before the App stops."""
    async with place.database() as database, database.connection() as connection:
        found = await connection.fetchrow(statement("persisted", place.schema), ids)
    return int(found["events"] - found["finished"]) if found is not None else 0


ROW = Row(
    name="append",
    title="Durable append, 100 runs each awaiting every event",
    figures=(
        Figure("rate", "rate", "events/s", better="more"),
        Figure("cpu", "CPU, client and Postgres", "s per million events"),
        Figure("lost", "acknowledged and not there", "events"),
    ),
    ours=by_library,
    references=(Reference(LIMIT, limits.group_commit),),
    goals=(
        Goal("rate", at_least=0.7, than=LIMIT),
        Goal("rate", at_least=50, than="DBOS write_stream"),
        Goal("lost", at_most=0),
    ),
)
