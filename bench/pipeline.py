"""The whole way in one process: append, publish, deliver to a follower, with the lag of every event."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass

from pydantic import SecretStr

import tailrace
from bench.append import PAYLOAD
from tailrace.read.follow import follow
from tailrace.runtime import ROLES, run_roles
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.migrate import upgrade
from tailrace.telemetry import EventsPublished, Happening

RUNS = 100
EVENTS_A_RUN = 200


@dataclass(slots=True)
class Pipeline:
    """What one pass through the whole way gave."""

    events_per_second: float
    lag_p50_ms: float
    lag_p99_ms: float


async def whole_way(url: str, schema: str) -> Pipeline:
    """Run 100 agents that each await 200 events, with a follower each, until every follower has its terminal event."""
    database = Database(url, schema=schema, tx_timeout_ms=60_000)
    await database.open()
    await upgrade(database)
    lags: list[float] = []

    def lag(happening: Happening) -> None:
        if isinstance(happening, EventsPublished):
            lags.extend(happening.at_ms - event.ts for run in happening.runs for event in run.events)

    async def agent(run: tailrace.Run) -> None:
        for _ in range(EVENTS_A_RUN):
            await run.emit("Progress", PAYLOAD)

    settings = Settings(database_url=SecretStr(url), db_schema=schema, log_level="error", worker_concurrency=RUNS)
    async with run_roles(settings, {"bench": agent}, ROLES, exporters=[lag]) as services:

        async def start_and_follow() -> int:
            run, _ = await services.orchestrator.start("bench", None)
            async with services.hub.watch(run.id) as (watched, _):
                async for chunk in follow(watched, services.events, 0, heartbeat_seconds=15):
                    if chunk.terminal:
                        return chunk.last_seq
            return 0

        begin = time.perf_counter()
        lasts = await asyncio.gather(*(start_and_follow() for _ in range(RUNS)))
        seconds = time.perf_counter() - begin
    async with database.connection() as connection:
        with suppress(Exception):
            await connection.execute(f'drop schema "{schema}" cascade')
    await database.close()
    cuts = statistics.quantiles(lags, n=100)
    return Pipeline(sum(lasts) / seconds, cuts[49], cuts[98])
