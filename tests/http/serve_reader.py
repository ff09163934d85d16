"""A process that serves an App: ``serve_reader.py PORT ROLES``; the settings come from the environment."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import uvicorn

import tailrace
from tailrace.runtime import ROLES, Role

app = tailrace.App()


@app.agent("count")
async def count(run: tailrace.Run) -> int:
    """Emit ``input`` events, each behind a step that a resumed run does not repeat."""
    for number in range(run.input):
        await run.step("Count", int, number)
    return int(run.input)


@app.agent("wait")
async def wait(run: tailrace.Run) -> None:
    """Run until it is cancelled."""
    async with run.node("Wait"):
        await asyncio.Event().wait()


if __name__ == "__main__":
    chosen: Sequence[Role] = [role for role in ROLES if role in sys.argv[2].split(",")]
    uvicorn.run(
        app.asgi(roles=chosen),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        timeout_graceful_shutdown=10,
    )
