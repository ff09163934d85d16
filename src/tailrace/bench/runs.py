"""Whole runs: start, five nodes, finish; by library and over HTTP, with 1, 10 and 50 at once."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

from tailrace.bench.agents import steps
from tailrace.bench.children import PATIENCE_SECONDS, PostgresCpu, child, line
from tailrace.bench.place import Place
from tailrace.bench.row import Figure, Figures, Goal, Row
from tailrace.bench.server import own_environment, serving
from tailrace.runtime import ROLES, run_roles
from tailrace.telemetry import Happening, JobEnded

AT_ONCE = (1, 10, 50)
ABSURD, RESTATE, LANGGRAPH = "Absurd", "Restate", "LangGraph + Postgres, saved at exit"


async def by_library(place: Place) -> Figures:
    """Start runs in the process that executes them, and begin the next one when one has ended."""
    async with place.fresh() as fresh:
        ended: dict[str, asyncio.Future[None]] = {}

        def hear(happening: Happening) -> None:
            if isinstance(happening, JobEnded):
                done = ended.setdefault(happening.run_id, asyncio.get_running_loop().create_future())
                if not done.done():
                    done.set_result(None)

        async with run_roles(fresh.settings(), {"steps": steps}, ROLES, exporters=[hear]) as services:

            async def whole_run() -> None:
                run, _ = await services.orchestrator.start("steps", None)
                await ended.setdefault(run.id, asyncio.get_running_loop().create_future())
                del ended[run.id]

            return await at_once(whole_run, fresh)


async def at_once(whole_run: Callable[[], Awaitable[None]], place: Place) -> dict[str, float]:
    """Do whole runs with 1, 10 and 50 users, each beginning the next one when one has ended; return runs per second."""
    cpu = await PostgresCpu.find(place.url)
    figures: dict[str, float] = {}
    for users in AT_ONCE:
        before, own, begin = cpu.seconds(), time.process_time(), time.perf_counter()
        until = begin + place.scale.seconds / 2

        async def user(until: float) -> int:
            count = 0
            while time.perf_counter() < until:
                await whole_run()
                count += 1
            return count

        count = sum(await asyncio.gather(*(user(until) for _ in range(users))))
        figures[f"at_{users}"] = count / (time.perf_counter() - begin)
        after = cpu.seconds()
        if before is not None and after is not None:
            figures["cpu"] = (time.process_time() - own + after - before) * 1000 / count
    return figures | {"best": max(figures[f"at_{users}"] for users in AT_ONCE)}


async def over_http(place: Place) -> Figures:
    """Start each run by POST and follow its stream to the end, on connections that are kept."""
    figures: dict[str, float] = {"lost": 0.0}
    async with place.fresh() as fresh, serving(fresh) as served:
        for users in AT_ONCE:
            before = served.cpu()
            command = [sys.executable, "-m", "tailrace.bench.users"]
            async with child(command, environment=own_environment(), folder=fresh.folder) as process:
                assert process.stdin is not None  # noqa: S101 - `child` gives every one a pipe
                seconds = fresh.scale.seconds / 2
                plan = {"port": served.port, "users": users, "seconds": seconds}
                process.stdin.write(json.dumps(plan).encode() + b"\n")
                await process.stdin.drain()
                answer = json.loads(await line(process, fresh.folder, seconds=seconds + PATIENCE_SECONDS))
            after = served.cpu()
            figures[f"at_{users}"] = answer["runs"] / answer["seconds"]
            figures["lost"] += answer["unfinished"]
            if before[0] is not None and after[0] is not None and before[1] is not None and after[1] is not None:
                figures["cpu"] = (after[0] - before[0] + after[1] - before[1]) * 1000 / max(1, answer["runs"])
    return figures | {"best": max(figures[f"at_{users}"] for users in AT_ONCE)}


FIGURES = (
    Figure("best", "best", "runs/s", better="more"),
    *(Figure(f"at_{users}", f"{users} at once", "runs/s", better="more") for users in AT_ONCE),
    Figure("cpu", "CPU with 50 at once, process and Postgres", "s per 1,000 runs"),
)
BESIDE_PEERS = (
    Goal("best", at_least=5, than=ABSURD),
    Goal("best", at_least=3, than=RESTATE),
    Goal("best", at_least=2, than=LANGGRAPH),
)
LIBRARY = Row(
    name="runs-library",
    title="Whole runs of five nodes by library",
    figures=FIGURES,
    ours=by_library,
    goals=(Goal("best", at_least=2000), *BESIDE_PEERS),
)
HTTP = Row(
    name="runs-http",
    title="Whole runs of five nodes over HTTP",
    figures=(*FIGURES, Figure("lost", "streams that did not end in RunFinished", "runs")),
    ours=over_http,
    goals=(Goal("best", at_least=1000), *BESIDE_PEERS, Goal("lost", at_most=0)),
)
