"""One run that floods beside 100 quiet ones: what the quiet ones notice."""

from __future__ import annotations

from tailrace.bench.children import PATIENCE_SECONDS
from tailrace.bench.delivery import pacing
from tailrace.bench.load import Plan
from tailrace.bench.pipeline import begun
from tailrace.bench.place import Place
from tailrace.bench.row import Figure, Figures, Goal, Row
from tailrace.bench.server import loading, serving, stream_path

QUIET_RUNS = 100
QUIET_RATE = 100.0
# Tasks of the hot run that each await every event: with so many it is never the agent that is waited for.
WIDTH = 200


async def ours(place: Place) -> Figures:
    """Flood in one run and pace the others, each with a client."""
    async with place.fresh() as fresh, serving(fresh) as served:
        gate = fresh.gate()
        seconds = fresh.scale.seconds
        inputs = pacing(str(gate), QUIET_RATE, seconds, QUIET_RUNS)
        quiet = await served.start("paced", inputs)
        # It begins before the first quiet event and ends after the last.
        hot = await served.start("flood", [{"gate": str(gate), "seconds": seconds + 1, "width": WIDTH}])
        streams = [("quiet", stream_path(run_id)) for run_id in quiet] + [("hot", stream_path(hot[0]))]
        plan = Plan("127.0.0.1", served.port, streams, seconds + PATIENCE_SECONDS)
        async with loading(fresh, plan) as load:
            await begun(served, [*quiet, *hot])
            gate.touch()
            arrived = await load.arrived()
    sent = sum(int(str(each["count"])) for each in inputs)
    return {
        "p50": arrived["quiet"].p50_ms,
        "p99": arrived["quiet"].p99_ms,
        "hot": arrived["hot"].received / arrived["hot"].seconds,
        "lost": float(sent - arrived["quiet"].received),
    }


ROW = Row(
    name="hot",
    title="One run at full speed beside 100 quiet ones",
    figures=(
        Figure("p99", "lag of the quiet runs, p99", "ms"),
        Figure("p50", "lag of the quiet runs, p50", "ms"),
        Figure("hot", "the hot run", "events/s", better="more"),
        Figure("lost", "of the quiet runs, not received", "events"),
    ),
    ours=ours,
    goals=(Goal("p99", at_most=20), Goal("lost", at_most=0)),
)
