"""Agents that provoke alerts, and one that a deployment executes."""

from __future__ import annotations

import asyncio

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
    """Take steps of a tenth of a second, as many as the input says; return what each gave, which is kept."""

    async def step(number: int) -> int:
        await asyncio.sleep(0.1)
        return number

    return [await run.step("Step", step, number) for number in range(run.input)]
