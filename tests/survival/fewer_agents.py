"""The next version of the App, in which an agent was removed."""

from __future__ import annotations

import tailrace

app = tailrace.App()


@app.agent("echo")
async def echo(run: tailrace.Run) -> object:
    """Return the input."""
    return run.input
