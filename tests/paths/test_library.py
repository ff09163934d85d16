"""An App in this process, from start to stream."""

from __future__ import annotations

import socket
from collections.abc import Callable

import httpx2

import tailrace
from tailrace.http.server import serving
from tailrace.settings import Settings
from tests.patience import PATIENCE_SECONDS


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

    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with (
            app.lifespan(),
            serving(app.asgi(), listening),
            tailrace.Client(url) as client,
            httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as http,
        ):
            run = await client.start("digest", {"path": "abc"})
            types = [event.type async for event in client.stream(run.run_id)]
            node = ["NodeStarted", "DebugTrace", "NodeFinished"]
            assert types == ["RunStarted", *node, "NodeStarted", "NodeFinished", "Custom", "RunFinished"]
            assert (await client.get(run.run_id)).output == {"size": 3}
            assert (await http.get(f"{url}/readyz")).status_code == httpx2.codes.OK
