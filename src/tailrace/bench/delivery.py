"""Append to received over HTTP, 100 runs with a client each, at a rate that no part finds hard."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tailrace.bench.children import PATIENCE_SECONDS
from tailrace.bench.load import Plan
from tailrace.bench.pipeline import begun
from tailrace.bench.place import Place
from tailrace.bench.row import Figure, Figures, Goal, Row
from tailrace.bench.server import Arrived, loading, serving, stream_path

RUNS = 100
REDIS = "Redis stream (fsync always) + sse-starlette"


def pacing(gate: str, rate: float, seconds: float, runs: int) -> list[dict[str, object]]:
    """Return the inputs of runs that emit ``rate`` events a second together, in turn."""
    interval = runs / rate
    count = max(2, round(seconds / interval))
    return [
        {"gate": gate, "interval": interval, "count": count, "phase": interval * number / runs}
        for number in range(runs)
    ]


async def ours(place: Place, *, rate: float) -> Figures:
    """Pace 100 runs and time every event of every client."""
    async with place.fresh() as fresh, serving(fresh) as served:
        gate = fresh.gate()
        inputs = pacing(str(gate), rate, fresh.scale.seconds, RUNS)
        ids = await served.start("paced", inputs)
        async with loading(fresh, plan(served.port, [stream_path(run_id) for run_id in ids], inputs)) as load:
            await begun(served, ids)
            gate.touch()
            return figures((await load.arrived())["all"], inputs)


def plan(port: int, paths: Sequence[str], inputs: Sequence[dict[str, object]], headers: str = "") -> Plan:
    """Return what the client does: follow every path until it has what the run emits."""
    count = int(str(inputs[0]["count"]))
    seconds = count * float(str(inputs[0]["interval"])) + PATIENCE_SECONDS
    return Plan("127.0.0.1", port, [("all", path) for path in paths], seconds, expected=count, headers=headers)


def figures(arrived: Arrived, inputs: Sequence[dict[str, object]]) -> Figures:
    """Return what the client saw."""
    sent = sum(int(str(each["count"])) for each in inputs)
    return {"p50": arrived.p50_ms, "p99": arrived.p99_ms, "lost": float(sent - arrived.received)}


def _row(name: str, rate: int, goals: Sequence[Goal]) -> Row:
    return Row(
        name=name,
        title=f"Append to received, 100 runs, 100 clients, {rate:,}/s",
        figures=(
            Figure("p50", "p50", "ms"),
            Figure("p99", "p99", "ms"),
            Figure("lost", "emitted and not received", "events"),
        ),
        ours=partial(ours, rate=rate),
        goals=(*goals, Goal("lost", at_most=0)),
    )


SLOW = _row("delivery-200", 200, ())
FAST = _row(
    "delivery-1000",
    1000,
    (
        Goal("p50", at_most=1.5),
        Goal("p99", at_most=5),
        Goal("p50", at_most=1.5, than=REDIS),
        Goal("p99", at_most=1.5, than=REDIS),
    ),
)
