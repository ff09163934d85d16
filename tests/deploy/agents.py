"""Agents that provoke alerts, and one that a deployment executes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import tailrace

app = tailrace.App()


@app.agent
async def wait(run: tailrace.Run) -> None:
    """Start a node and stay in it, silently."""
    async with run.node("Wait"):
        await asyncio.sleep(600)


@app.agent
async def flood(run: tailrace.Run) -> None:
    """Emit as many events as the input says."""
    await asyncio.gather(*(run.emit("Progress", {"number": number}) for number in range(run.input)))


@app.agent
async def walk(run: tailrace.Run) -> list[int]:
    """Take as many steps as the input says; half-way, if it names a gate, wait until there is such a file."""
    steps, gate = run.input["steps"], run.input.get("gate")

    async def step(number: int) -> int:
        while number == steps // 2 and gate is not None and not Path(gate).exists():  # noqa: ASYNC110, ASYNC240 - it is a test's
            await asyncio.sleep(0.01)
        return number

    return [await run.step("Step", step, number) for number in range(steps)]
