"""``make bench``: measures, prints a table, writes ``build/bench.json``.

On TEST_DATABASE_URL if it is set, else on the embedded Postgres.
"""

from __future__ import annotations

import asyncio
import statistics
from functools import partial
from pathlib import Path

import asyncpg
import psycopg
import uvloop

import tailrace
from bench import append, pipeline
from bench.report import ROUNDS, Row, compare, show
from tailrace.testing.servers import postgres_server, with_database


async def main() -> None:
    with postgres_server() as server:
        admin = await asyncpg.connect(server)
        await admin.execute("drop database if exists tailrace_bench with (force)")
        await admin.execute("create database tailrace_bench")
        url = with_database(server, "tailrace_bench")
        try:
            rows = await _rows(url)
            version = await admin.fetchval("show server_version")
        finally:
            await admin.execute("drop database tailrace_bench with (force)")
            await admin.close()
    versions = {"tailrace": tailrace.__version__, "postgres": version, "asyncpg": asyncpg.__version__}
    show(rows, versions | {"psycopg": psycopg.__version__}, Path("build/bench.json"))


async def _rows(url: str) -> list[Row]:
    batches = await compare(
        "driver: append of 1,000", "µs CPU/event",
        partial(append.driver_batches_asyncpg, url), "psycopg", partial(append.driver_batches_psycopg, url),
    )  # fmt: skip
    small = await compare(
        "driver: one small query", "µs CPU",
        partial(append.driver_small_asyncpg, url), "psycopg", partial(append.driver_small_psycopg, url),
    )  # fmt: skip
    durable = await compare(
        "durable append, 100 runs", "events/s",
        partial(append.by_library, url), "bare statement", partial(append.by_statement, url),
    )  # fmt: skip
    return [batches, small, durable, *await _whole_way(url)]


async def _whole_way(url: str) -> list[Row]:
    limits, passes = [], []
    for turn in range(ROUNDS):
        passes.append(await pipeline.whole_way(url, f"pipeline_{turn}"))
        limits.append(await append.by_statement(url))
    rates = [each.events_per_second for each in passes]
    ratios = [rate / limit for rate, limit in zip(rates, limits, strict=True)]
    limit = statistics.median(limits)
    rate = Row(
        "append, publish, deliver", "events/s", statistics.median(rates), "bare append", limit,
        statistics.median(ratios), min(ratios), max(ratios),
    )  # fmt: skip
    p50 = statistics.median(each.lag_p50_ms for each in passes)
    p99s = [each.lag_p99_ms / each.lag_p50_ms for each in passes]
    p99 = statistics.median(each.lag_p99_ms for each in passes)
    lag = Row("  its lag, p99", "ms", p99, "p50", p50, statistics.median(p99s), min(p99s), max(p99s))
    return [rate, lag]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
