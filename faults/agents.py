"""The agents of a campaign.  What is acknowledged to them is written down: it is the truth that the log is held to.

A line of ``FAULTS_ACKS`` is ``run epoch token``, appended right after the ``await`` has returned.  A kill between the
commit and the line leaves an event without a line, never a line without an event.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time

import tailrace

app = tailrace.App()
_FILE = os.open(os.environ.get("FAULTS_ACKS", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def _acknowledged(run: tailrace.Run, token: str) -> None:
    os.write(_FILE, f"{run.id} {run.log.epoch} {token}\n".encode())


async def say(run: tailrace.Run, padding: int = 0) -> None:
    """Emit a Custom event with a token of its own."""
    token = secrets.token_hex(8)
    await run.emit("Said", {"token": token, "padding": "x" * padding})
    _acknowledged(run, token)


async def trace(run: tailrace.Run) -> None:
    """Emit a DebugTrace whose function is a token."""
    token = secrets.token_hex(8)
    await run.trace(token)
    _acknowledged(run, token)


@app.agent
async def burst(run: tailrace.Run) -> None:
    """Many events at once, again and again, from tasks that emit at the same time."""
    for _ in range(8):
        async with run.node("Burst"), asyncio.TaskGroup() as tasks:
            for number in range(10):
                tasks.create_task(say(run, padding=number * 40))
        await asyncio.sleep(0.3)


@app.agent
async def trickle(run: tailrace.Run) -> dict[str, int]:
    """An event, a pause, an event."""
    for _ in range(40):
        await say(run)
        await asyncio.sleep(0.07)
    return {"said": 40}


@app.agent
async def steps(run: tailrace.Run) -> list[str]:
    """Steps whose results are kept: async ones, and plain ones in a thread."""

    async def think() -> str:
        await asyncio.sleep(0.25)
        return secrets.token_hex(4)

    def work() -> str:
        time.sleep(0.25)
        return secrets.token_hex(4)

    found = []
    for number in range(8):
        found.append(await run.step(f"Step-{number}", work if number % 2 else think))
        await say(run)
    return found


@app.agent
async def slow(run: tailrace.Run) -> None:
    """Few events with long silences between them."""
    for number in range(3):
        async with run.node(f"Slow-{number}"):
            await trace(run)
            await asyncio.sleep(1.2)


@app.agent
async def large(run: tailrace.Run) -> None:
    """Events of thirty kilobytes, so that pages, rings and chunks end in their middle."""
    for _ in range(20):
        await say(run, padding=30_000)
        await asyncio.sleep(0.12)


@app.agent
async def failing(run: tailrace.Run) -> None:
    """Ends in RunFailed."""
    for _ in range(10):
        await say(run)
        await asyncio.sleep(0.2)
    raise ValueError("this agent fails, as it should")


@app.agent
async def endless(run: tailrace.Run) -> None:
    """Goes on until somebody cancels it."""
    while True:
        await say(run)
        await asyncio.sleep(0.2)


KINDS = ("burst", "trickle", "steps", "slow", "large", "failing", "endless")
