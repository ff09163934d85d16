"""A FastAPI application with Tailrace mounted in it.

Run it with ``uvicorn fastapi_app:api``; streams are at ``/tailrace/api/agents/runs/{runId}/stream``.
"""

from __future__ import annotations

import asyncio

from fastapi import FastAPI

import tailrace

app = tailrace.App()


@app.agent("greet")
async def greet(run: tailrace.Run) -> str:
    """Greet, one letter at a time."""
    text = f"Hello, {(run.input or {}).get('name', 'world')}!"
    async with run.node("Speak"):
        for letter in text:
            await run.emit("Letter", {"letter": letter})
            await asyncio.sleep(0.01)
    return text


# The one line: the application's lifespan starts and stops Tailrace.
api = FastAPI(lifespan=app.lifespan)
api.mount("/tailrace", app.asgi())


@api.get("/")
async def home() -> dict[str, str]:
    """Say that the application's own routes are still there."""
    return {"hello": "world"}
