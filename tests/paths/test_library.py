"""An App in this process, from start to stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2
import uvicorn

import tailrace
from tailrace.settings import Settings


async def test_an_agent_runs_and_its_stream_ends_with_one_terminal_event(settings: Callable[..., Settings]) -> None:
    """The main job: start over HTTP, follow, end."""
    app = tailrace.App(settings())

    @app.agent("digest")
    async def digest(run: tailrace.Run) -> dict[str, int]:
        async with run.node("Discover"):
            await run.trace("walk")
        size = await run.step("Read", len, run.input["path"])
        await run.emit("Progress", {"done": 1, "of": 1})
        return {"size": size}

    server = uvicorn.Server(uvicorn.Config(app.asgi(), port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with tailrace.Client(f"http://127.0.0.1:{port}") as client:
        run = await client.start("digest", {"path": "abc"})
        types = [event.type async for event in client.stream(run.run_id)]
        assert types == [
            "RunStarted", "NodeStarted", "DebugTrace", "NodeFinished", "NodeStarted", "NodeFinished", "Custom", "RunFinished",
        ]  # fmt: skip
        assert (await client.get(run.run_id)).output == {"size": 3}
    async with httpx2.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{port}/readyz")
        assert answer.status_code == httpx2.codes.OK
    server.should_exit = True
    await serving
