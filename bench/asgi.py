"""The barest event stream in ASGI, on uvicorn: what a stream holds there with nothing behind it."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from bench.peer import peer, plan_on_stdin, say
from tailrace.bench import idle
from tailrace.bench.place import Place
from tailrace.bench.row import Figures, Reference


async def idling(place: Place) -> Figures:
    """Open streams that wait."""
    async with peer(place, "asgi") as (served, pid):
        return await idle.growth(place, served["port"], pid, ["/"])


async def _stream(scope: Any, _receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"retry: 1000\n\n", "more_body": True})
        await asyncio.Event().wait()


async def _serve() -> None:
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = uvicorn.Server(uvicorn.Config(_stream, log_level="error", lifespan="off"))
    say({"port": listening.getsockname()[1]})
    await server.serve(sockets=[listening])


IDLE = Reference("bare ASGI on uvicorn", idling)

if __name__ == "__main__":
    import uvloop

    plan_on_stdin()
    uvloop.run(_serve())
