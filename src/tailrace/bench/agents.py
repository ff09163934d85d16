"""The agents that make the load, as a user's would; ``tailrace serve --app tailrace.bench.agents`` serves them.

Each waits for its gate, a file, so that all begin at the same moment, when the clients are there.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tailrace.app import App
from tailrace.worker.run import Run

# With this an event takes about 185 bytes on the wire, as those the peers were measured with.
PADDING = "x" * 24
GATE_POLL_SECONDS = 0.005
_gates: dict[str, asyncio.Task[float]] = {}

app = App()


def payload() -> dict[str, object]:
    """Return the data of an event: when it was made, in nanoseconds since the Unix epoch, and padding."""
    return {"t": time.time_ns(), "x": PADDING}


@app.agent
async def flood(run: Run) -> int:
    """Emit for ``seconds``, each of ``width`` tasks awaiting every event, and return how many events that were."""
    await opened(run.input["gate"])
    until = time.monotonic() + run.input["seconds"]

    async def emit_on() -> int:
        count = 0
        while time.monotonic() < until:
            await run.emit("Progress", payload())
            count += 1
        return count

    return sum(await asyncio.gather(*(emit_on() for _ in range(run.input.get("width", 1)))))


@app.agent
async def paced(run: Run) -> int:
    """Emit ``count`` events, one every ``interval`` seconds, the first after ``phase`` seconds."""
    begin = await opened(run.input["gate"]) + run.input["phase"]
    for number in range(run.input["count"]):
        wait = begin + number * run.input["interval"] - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        await run.emit("Progress", payload())
    return int(run.input["count"])


@app.agent
async def steps(run: Run) -> None:
    """Go through five nodes that do nothing."""
    for number in range(5):
        async with run.node(f"Node{number}"):
            pass


@app.agent
async def idle(run: Run) -> None:
    """Say one thing and wait to be cancelled."""
    await run.emit("Progress", payload())
    await asyncio.Event().wait()


async def opened(gate: str) -> float:
    """Wait until the gate is there and return when that was, on the monotonic clock; all runs share one look-out."""
    if gate not in _gates:
        _gates[gate] = asyncio.create_task(_look_out(gate))
    return await asyncio.shield(_gates[gate])


async def _look_out(gate: str) -> float:
    path = Path(gate)
    while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it; one look-up in a folder in memory
        await asyncio.sleep(GATE_POLL_SECONDS)
    return time.monotonic()
