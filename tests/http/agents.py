"""The App that the tests of the read side serve by ``tailrace serve --app``."""

from __future__ import annotations

import asyncio

import tailrace

app = tailrace.App()


@app.agent("echo")
async def echo(run: tailrace.Run) -> object:
    """Return the input."""
    return run.input


@app.agent("wait")
async def wait(run: tailrace.Run) -> None:
    """Run until it is cancelled."""
    async with run.node("Wait"):
        await asyncio.Event().wait()


@app.agent("fail")
async def fail(run: tailrace.Run) -> None:
    """Raise."""
    raise ValueError(run.input)
