"""A stream as a client sees it: when each event arrives, and what was done to the response on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2
import orjson

RUNS = "/api/agents/runs"
# A proxy may keep even the head back until the run has ended; the walk is bounded as a whole.
SILENCE_SECONDS = 60.0


class Listener:
    """Reads one run's stream from its beginning to its end; ``read`` is run as a task.

    ``arrived`` holds the time of each event by its seq, on the clock of the loop; ``trouble`` says why there is none.
    """

    def __init__(self, http: httpx2.AsyncClient, run_id: str) -> None:
        self._http = http
        self._path = f"{RUNS}/{run_id}/stream"
        self.arrived: dict[int, float] = {}
        self.encoding: str | None = None
        self.trouble: str | None = None
        self._news = asyncio.Event()

    async def read(self) -> None:
        """Read to the end; every error is kept as ``trouble``."""
        # What browsers send; a proxy that compresses does so for those who offer to take it.
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "gzip, deflate"}
        try:
            async with self._http.stream("GET", self._path, headers=headers, timeout=SILENCE_SECONDS) as response:
                self.encoding = response.headers.get("content-encoding")
                if response.status_code != httpx2.codes.OK:
                    self.trouble = f"the stream was answered {response.status_code}"
                elif not response.headers.get("content-type", "").startswith("text/event-stream"):
                    self.trouble = "what was answered is no event stream"
                else:
                    await self._lines(response)
        except (httpx2.HTTPError, OSError, AttributeError) as error:  # AttributeError: see client.py
            self.trouble = f"the stream broke: {str(error) or type(error).__name__}"
        finally:
            self._news.set()

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until something has arrived that makes ``condition`` true; return whether it did in time."""
        try:
            async with asyncio.timeout(seconds):
                while not condition() and self.trouble is None:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        return condition()

    async def _lines(self, response: httpx2.Response) -> None:
        rest = b""
        clock = asyncio.get_running_loop().time
        async for piece in response.aiter_bytes():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    self.arrived.setdefault(orjson.loads(line[5:])["seq"], clock())
            self._news.set()
