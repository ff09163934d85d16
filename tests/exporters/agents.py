"""Agents that are traced."""

from __future__ import annotations

import tailrace

app = tailrace.App()


@app.agent
async def stages(run: tailrace.Run) -> None:
    """A node and a step."""
    async with run.node("First"):
        await run.trace("within")
    await run.step("Second", int)


@app.agent
async def fails(run: tailrace.Run) -> None:
    """Raise within a node."""
    async with run.node("Breaks"):
        raise ValueError("no")
