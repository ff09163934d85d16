"""Fan-out: one run, 1,000 clients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tailrace.bench.children import PATIENCE_SECONDS
from tailrace.bench.load import Plan
from tailrace.bench.pipeline import begun
from tailrace.bench.place import Place
from tailrace.bench.row import Figure, Figures, Goal, Row
from tailrace.bench.server import Arrived, loading, serving, stream_path

NCHAN = "nchan"
# One client in ten has its times read; all are counted.
TIMED_EVERY = 10


async def ours(place: Place, *, rate: float) -> Figures:
    """Let one run emit at a steady rate while a process of clients counts."""
    async with place.fresh() as fresh, serving(fresh) as served:
        gate = fresh.gate()
        value = pacing(str(gate), rate, fresh.scale.seconds)
        (run_id,) = ids = await served.start("paced", [value])
        async with loading(fresh, plan(served.port, stream_path(run_id), value, fresh.scale.clients)) as load:
            await begun(served, ids)
            server_before, postgres_before = served.cpu()
            gate.touch()
            arrived = (await load.arrived())["all"]
            server_after, postgres_after = served.cpu()
    found = figures(arrived, value, server_before, server_after)
    if postgres_before is not None and postgres_after is not None:
        found["postgres"] = (postgres_after - postgres_before) * 1e6 / arrived.received
    return found


def pacing(gate: str, rate: float, seconds: float) -> dict[str, object]:
    """Return the input of a run that emits at ``rate``."""
    return {"gate": gate, "interval": 1 / rate, "count": max(10, round(seconds * rate)), "phase": 0.0}


def plan(port: int, path: str, value: dict[str, object], clients: int, headers: str = "") -> Plan:
    """Return what the clients do: each follows the one path until it has every event."""
    count = int(str(value["count"]))
    seconds = count * float(str(value["interval"])) + PATIENCE_SECONDS
    streams = [("all", path)] * clients
    return Plan("127.0.0.1", port, streams, seconds, expected=count, timed_every=TIMED_EVERY, headers=headers)


def figures(
    arrived: Arrived, value: dict[str, object], cpu_before: float | None, cpu_after: float | None
) -> dict[str, float]:
    """Return what the clients saw and what it cost the server."""
    sent = int(str(value["count"])) * arrived.streams
    found = {
        "p50": arrived.p50_ms,
        "p99": arrived.p99_ms,
        "delivered": arrived.received * 100 / sent,
        "rate": arrived.received / arrived.seconds,
    }
    if cpu_before is not None and cpu_after is not None:
        found["cpu"] = (cpu_after - cpu_before) * 1e6 / arrived.received
    return found


def _row(name: str, rate: int, goals: Sequence[Goal]) -> Row:
    return Row(
        name=name,
        title=f"Fan-out, one run, 1,000 clients, {rate} events/s",
        figures=(
            Figure("cpu", "CPU of the server", "s per million deliveries"),
            Figure("postgres", "CPU of Postgres", "s per million deliveries"),
            Figure("delivered", "delivered", "%", better="more"),
            Figure("rate", "deliveries", "per s", better="more"),
            Figure("p50", "p50", "ms"),
            Figure("p99", "p99", "ms"),
        ),
        ours=partial(ours, rate=rate),
        goals=(*goals, Goal("delivered", at_least=100)),
    )


SLOW = _row("fanout-100", 100, (Goal("cpu", at_most=1, than=NCHAN), Goal("p99", at_most=1, than=NCHAN)))
# Held: what is emitted in a second is received in a second.
FAST = _row("fanout-400", 400, (Goal("rate", at_least=380_000),))
