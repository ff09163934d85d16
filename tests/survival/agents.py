"""Agents that leave marks in a folder, so that a test knows which process has done what."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import tailrace

app = tailrace.App()


def mark(folder: Path, word: str) -> int:
    """Add ``word`` and this process to the folder's marks, and return the process."""
    with (folder / "marks").open("a") as file:
        file.write(f"{word} {os.getpid()}\n")
    return os.getpid()


async def wait_at_gate(folder: Path) -> int:
    """Leave a mark, and return once the test has opened this process's gate."""
    mark(folder, "two")
    while not (folder / f"gate-{os.getpid()}").exists():  # noqa: ASYNC110 - the test is another process
        await asyncio.sleep(0.005)
    return os.getpid()


@app.agent("stages")
async def stages(run: tailrace.Run) -> list[int]:
    """Do two steps, of which the second waits; return which process has done which."""
    folder = Path(run.input)
    try:
        one = await run.step("One", mark, folder, "one")
        two = await run.step("Two", wait_at_gate, folder)
        await run.trace("after")
    except (asyncio.CancelledError, tailrace.TailraceError):
        mark(folder, "stopped")
        raise
    return [one, two]


@app.agent("killer")
async def killer(run: tailrace.Run) -> None:
    """Kill the worker."""
    await run.trace(f"killing {os.getpid()}")
    os.kill(os.getpid(), signal.SIGKILL)


@app.agent("climber")
async def climber(run: tailrace.Run) -> list[int]:
    """Keep a step more in each life, and kill the worker after it, until the fourth is kept."""
    found = []
    for number in range(4):
        before = run.log.last_seq
        found.append(await run.step(f"Step-{number}", os.getpid))
        if run.log.last_seq > before and number < 3:
            os.kill(os.getpid(), signal.SIGKILL)
    return found


@app.agent("blocker")
async def blocker(run: tailrace.Run) -> None:
    """Block the event loop for longer than the lease."""
    await run.trace("blocking")
    time.sleep(2.5)  # noqa: ASYNC251 - that is the point


@app.agent("echo")
async def echo(run: tailrace.Run) -> int:
    """Return which process this is."""
    return os.getpid()
