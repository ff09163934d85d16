"""A client that follows a run as a browser does."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2

from tests.patience import PATIENCE_SECONDS

FOLLOW_SECONDS = 2 * PATIENCE_SECONDS
TERMINAL = {"RunFinished", "RunFailed", "RunCancelled"}


class Follower:
    """A client as a browser is one: it comes again with the last id it has seen, and never after another status."""

    def __init__(self, url: str, key: str, run_id: str) -> None:
        self._http = httpx2.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=FOLLOW_SECONDS
        )
        self._path = f"/api/agents/runs/{run_id}/stream"
        self._moved = asyncio.Condition()
        self.events: list[dict[str, Any]] = []
        self.connections = 0

    async def follow(self) -> None:
        """Follow the run to its end."""
        async with self._http as http, asyncio.timeout(FOLLOW_SECONDS):
            while True:
                headers = {"Last-Event-ID": str(self.events[-1]["seq"])} if self.events else {}
                try:
                    async with http.stream("GET", self._path, headers=headers) as answer:
                        if answer.status_code == httpx2.codes.NO_CONTENT:
                            return
                        assert answer.status_code == httpx2.codes.OK, answer.status_code
                        self.connections += 1
                        async for line in answer.aiter_lines():
                            if line.startswith("data: "):
                                async with self._moved:
                                    self.events.append(json.loads(line.removeprefix("data: ")))
                                    self._moved.notify_all()
                except httpx2.TransportError:
                    await asyncio.sleep(0.1)

    async def upto(self, seq: int) -> None:
        """Wait until it has seen an event."""
        async with self._moved, asyncio.timeout(FOLLOW_SECONDS):
            await self._moved.wait_for(lambda: bool(self.events) and self.events[-1]["seq"] >= seq)

    def saw_the_whole_run(self) -> None:
        """Assert that each event came once, in order, and one terminal event, the last."""
        assert [event["seq"] for event in self.events] == list(range(1, len(self.events) + 1))
        terminal = [event["seq"] for event in self.events if event["type"] in TERMINAL]
        assert terminal == [len(self.events)]
        assert self.events[-1]["type"] == "RunFinished"
