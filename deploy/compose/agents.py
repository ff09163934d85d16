"""An agent to see that it works; put your own in this file's place, or into an image of your own."""

from __future__ import annotations

import asyncio

import tailrace

app = tailrace.App()


@app.agent("greet")
async def greet(run: tailrace.Run) -> str:
    """Greet, one letter at a time."""
    text = f"Hello, {(run.input or {}).get('name', 'world')}!"
    async with run.node("Speak"):
        for letter in text:
            await run.emit("Letter", {"letter": letter})
            await asyncio.sleep(0.1)
    return text
