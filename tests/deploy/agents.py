"""Agents that provoke alerts."""

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
