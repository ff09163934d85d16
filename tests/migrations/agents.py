"""Agents whose runs go on until the test has seen enough, whoever executes them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import tailrace

app = tailrace.App()


@app.agent("counting")
async def counting(run: tailrace.Run) -> str:
    """Emit until there is a file ``enough`` in the folder."""
    await run.step("Begin", str, "begun")
    number = 0
    while not (Path(run.input) / "enough").exists():
        await run.emit("Progress", {"number": number})
        number += 1
        await asyncio.sleep(0.01)
    return "done"


@app.agent("short")
async def short(run: tailrace.Run) -> str:
    """Do one of everything."""
    async with run.node("Look"):
        await run.trace("walk")
    await run.emit("Progress", {"done": 1})
    await run.step("Read", str, "read")
    return "done"
