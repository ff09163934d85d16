"""The App that the server of these tests has."""

from __future__ import annotations

import asyncio
from pathlib import Path

import tailrace

app = tailrace.App()


@app.agent("ticker")
async def ticker(run: tailrace.Run) -> None:
    """Emit again and again, until the file that the input names exists."""
    enough = Path(run.input)
    while not enough.exists():  # noqa: ASYNC240 - a look takes microseconds
        await run.emit("Tick")
        await asyncio.sleep(0.002)


@app.agent("echo")
async def echo(run: tailrace.Run) -> object:
    """Return the input."""
    return run.input
