"""Growth: what append, outbox and backfill cost in tables with a long history, beside the same in empty ones.

Cost is CPU, of this process and of Postgres, where it can be had, for it drifts less than time does; else it is time.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from tailrace.app import App
from tailrace.bench.append import flooded
from tailrace.bench.backfill import PREFIX, fill, read
from tailrace.bench.children import PostgresCpu
from tailrace.bench.place import Place
from tailrace.bench.row import Figure, Figures, Goal, Reference, Row
from tailrace.bench.server import serving
from tailrace.bench.statements import statement
from tailrace.runtime import Role

EMPTY = "empty tables"
APPEND_SECONDS = 4.0
BACKFILL_EVENTS = 20_000
# The system counts CPU in hundredths of a second: what is measured must take many of them.
BACKFILL_TIMES = 5
OUTBOX_ALONE: tuple[Role, ...] = ("outbox",)


@asynccontextmanager
async def history(place: Place) -> AsyncIterator[Place]:
    """Yield a place whose tables hold the runs and events of the scale, all finished and published."""
    scale = place.scale
    async with place.fresh() as fresh:
        await fill(fresh, PREFIX, scale.finished_runs, max(1, scale.history // scale.finished_runs - 2))
        yield fresh


async def in_full(place: Place) -> Figures:
    """Return the costs in the schema that ``history`` has filled."""
    return await _costs(place)


async def in_empty(place: Place) -> Figures:
    """Return the costs in a new schema."""
    async with place.fresh() as fresh:
        return await _costs(fresh)


async def _costs(place: Place) -> Figures:
    short = replace(place, scale=replace(place.scale, seconds=min(APPEND_SECONDS, place.scale.seconds)))
    appended = await flooded(short)
    return {
        "append": appended.get("cpu", 1e6 / appended["rate"]),
        "outbox": await _outbox(place),
        "backfill": await _backfill(place),
    }


async def _outbox(place: Place) -> float:
    """Publish what the append has left behind, and return the seconds per million events."""
    cpu = await PostgresCpu.find(place.url)
    app = App(place.settings())
    async with place.database() as database, database.connection() as connection:
        waiting = await connection.fetchval(statement("backlog", place.schema))
        async with app.running(OUTBOX_ALONE):
            # Its duties have not had a turn yet: what the start of a process costs is not counted.
            before, own, begin = cpu.seconds(), time.process_time(), time.perf_counter()
            while await connection.fetchval(statement("backlog", place.schema)):  # noqa: ASYNC110 - Postgres sets no Event
                await asyncio.sleep(0.02)
            own, seconds, after = time.process_time() - own, time.perf_counter() - begin, cpu.seconds()
    if before is not None and after is not None:
        seconds = own + after - before
    return float(seconds * 1e6 / waiting)


async def _backfill(place: Place) -> float:
    """Read a log to its end, and return the seconds per million events."""
    events = min(BACKFILL_EVENTS, place.scale.events)
    prefix = f"log-{secrets.token_hex(4)}-"
    await fill(place, prefix, 1, events)
    async with serving(place, "api") as served:
        await read(served, f"{prefix}1")
        before = served.cpu()
        seconds = 0.0
        for _ in range(BACKFILL_TIMES):
            seconds += (await read(served, f"{prefix}1"))[0]
        after = served.cpu()
    if before[0] is not None and after[0] is not None and before[1] is not None and after[1] is not None:
        seconds = after[0] - before[0] + after[1] - before[1]
    return seconds * 1e6 / (events * BACKFILL_TIMES)


ROW = Row(
    name="growth",
    title="Cost with a long history in the tables",
    figures=(
        Figure("append", "append", "CPU s per million events"),
        Figure("outbox", "outbox", "CPU s per million events"),
        Figure("backfill", "backfill", "CPU s per million events"),
    ),
    ours=in_full,
    references=(Reference(EMPTY, in_empty),),
    goals=tuple(Goal(key, at_most=1.1, than=EMPTY) for key in ("append", "outbox", "backfill")),
    rounds=5,
    prepare=history,
)
