"""Agents for servers in processes of their own."""

from __future__ import annotations

import asyncio

import tailrace

app = tailrace.App()


@app.agent
async def wait(run: tailrace.Run) -> None:
    """Start a node and stay in it."""
    async with run.node("Wait"):
        await asyncio.sleep(600)


@app.agent
async def echo(run: tailrace.Run) -> object:
    """Return the input."""
    async with run.node("Echo"):
        return run.input
