"""Backfill: one client reads a long log that is over, from its beginning."""

from __future__ import annotations

import time
from contextlib import suppress

import asyncpg

from tailrace.bench import limits
from tailrace.bench.children import PATIENCE_SECONDS, forget_peak, resident_bytes
from tailrace.bench.load import Plan
from tailrace.bench.place import Place
from tailrace.bench.row import Figure, Figures, Goal, Reference, Row
from tailrace.bench.server import Served, loading, serving, stream_path
from tailrace.bench.statements import statement

COPY = "COPY of the same rows"
PREFIX = "past-"
# A backfill of this size and the server has everything in memory that one needs, and connections, as COPY has.
WARM_EVENTS = 10_000
# Ten million events take minutes on a small machine.
FILL_MAX_SECONDS = 900.0


async def over_http(place: Place) -> Figures:
    """Read the whole log over HTTP; note how far the server's memory rises."""
    async with place.fresh() as fresh:
        await fill(fresh, PREFIX, 1, fresh.scale.events)
        async with serving(fresh, "api") as served:
            await read(served, f"{PREFIX}1", from_seq=max(0, fresh.scale.events - WARM_EVENTS))
            before = resident_bytes(served.pid)
            forget_peak(served.pid)
            seconds, received = await read(served, f"{PREFIX}1")
            peak = resident_bytes(served.pid, peak=True)
    figures = {"rate": fresh.scale.events / seconds, "lost": float(fresh.scale.events - received)}
    if before is not None and peak is not None:
        figures["memory"] = (peak - before) / 2**20
    return figures


async def read(served: Served, run_id: str, *, from_seq: int = 0) -> tuple[float, int]:
    """Read a log to its end and return the seconds from the request on and the number of events."""
    # No times are shown, and to read them costs the client more than to count the events.
    plan = Plan("127.0.0.1", served.port, [("all", stream_path(run_id, from_seq))], PATIENCE_SECONDS * 2, timed_every=0)
    async with loading(served.place, plan) as load:
        arrived = (await load.arrived())["all"]
    return (arrived.last_ns - arrived.opened_ns) / 1e9, arrived.received


async def by_copy(place: Place) -> Figures:
    """Copy the rows out over a raw connection, as psql's COPY does, and count their bytes."""
    async with place.fresh() as fresh, fresh.database() as database:
        await fill(fresh, PREFIX, 1, fresh.scale.events)
        async with database.connection() as connection:
            await limits.copy_out(connection, f"{PREFIX}1", fresh.schema)
            begin = time.perf_counter()
            rows, _ = await limits.copy_out(connection, f"{PREFIX}1", fresh.schema)
            return {"rate": rows / (time.perf_counter() - begin)}


async def fill(place: Place, prefix: str, runs: int, events_a_run: int) -> None:
    """Put finished, published runs into the tables, from within Postgres."""
    async with place.database() as database, database.connection() as connection:
        await connection.execute("set statement_timeout = 0")
        for name in ("fill_runs", "fill_events", "fill_outbox"):
            await connection.execute(
                statement(name, place.schema), runs, prefix, events_a_run, timeout=FILL_MAX_SECONDS
            )
        # So that autovacuum, the hint bits and the next checkpoint are not charged to what is measured.
        for table in ("run_events", "runs", "run_outbox"):
            await connection.execute(f'vacuum analyze "{place.schema}".{table}', timeout=FILL_MAX_SECONDS)
        with suppress(asyncpg.InsufficientPrivilegeError):
            await connection.execute("checkpoint", timeout=FILL_MAX_SECONDS)
        await connection.execute("reset statement_timeout")


ROW = Row(
    name="backfill",
    title="Backfill of 100,000 events to one client over HTTP",
    figures=(
        Figure("rate", "rate", "events/s", better="more"),
        Figure("memory", "memory that the server took for it", "MiB"),
        Figure("lost", "not received", "events"),
    ),
    ours=over_http,
    references=(Reference(COPY, by_copy),),
    # Flat: what the log holds is some 19 MB on the wire, and a page of it a quarter of a megabyte.
    goals=(Goal("rate", at_least=0.7, than=COPY), Goal("memory", at_most=8), Goal("lost", at_most=0)),
    rounds=5,
)
