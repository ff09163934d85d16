"""Clients that write down every event they receive: ``tailrace.Client``, and a reader of the raw stream."""

from __future__ import annotations

import asyncio
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

import httpx2

import tailrace
from faults.checks import Violation, stream_violations
from tailrace.errors import ApiError

# Four heartbeats of the servers under test.
SILENCE_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """When an event came, by the loop's clock, and when it was emitted, in milliseconds since the Unix epoch."""

    at: float
    ts: int


class Reader(ABC):
    """One client of one run.  It keeps its position over all its connections and may be told to connect anew."""

    who = ""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.seqs: list[int] = []
        self.arrivals: list[Arrival] = []
        self.position = 0
        self.connections = 0
        self.server: str | None = None
        self.ended = False
        self.refusal: str | None = None
        self._reading: asyncio.Task[None] | None = None

    async def read(self) -> None:
        """Read until the stream has ended."""
        while not self.ended and self.refusal is None:
            self._reading = asyncio.ensure_future(self._connect())
            try:
                await asyncio.wait({self._reading})
            finally:
                self._reading.cancel()
            if not self._reading.cancelled() and (error := self._reading.exception()) is not None:
                raise error

    def drop(self) -> bool:
        """Drop the connection and come back from the position; return whether there was one to drop."""
        if self._reading is None or self._reading.done() or self.ended:
            return False
        self._reading.cancel()
        return True

    def violations(self, last_seq: int) -> list[Violation]:
        """Compare what was received with the whole log."""
        found = stream_violations(self.run_id, self.who, last_seq, self.seqs)
        if self.refusal is not None:
            found.append(Violation("refused", self.run_id, f"{self.who} was refused: {self.refusal}"))
        elif not self.ended:
            detail = f"{self.who} is at {self.position} of {last_seq} after {self.connections} connections"
            found.append(Violation("stuck", self.run_id, detail))
        return found

    @abstractmethod
    async def _connect(self) -> None:
        """Read over one connection, or over as many as the client makes by itself."""

    def _received(self, seq: int, ts: int) -> None:
        self.seqs.append(seq)
        self.arrivals.append(Arrival(time.monotonic(), ts))
        self.position = max(self.position, seq)


class LibraryReader(Reader):
    """``tailrace.Client``, which reconnects and de-duplicates by itself."""

    who = "tailrace.Client"

    def __init__(self, run_id: str, clients: Sequence[tuple[str, tailrace.Client]]) -> None:
        super().__init__(run_id)
        self._clients = clients

    async def _connect(self) -> None:
        self.server, client = self._clients[self.connections % len(self._clients)]
        self.connections += 1
        try:
            async with aclosing(client.stream(self.run_id, from_seq=self.position)) as events:  # type: ignore[type-var]
                async for event in events:
                    self._received(event.seq, event.ts)
        except ApiError as error:
            self.refusal = str(error)
            return
        self.ended = True


class RawReader(Reader):
    """Reads frames as they come, as ``EventSource`` does: the last id, the retry time, and 204 as the end."""

    who = "raw stream"

    def __init__(self, run_id: str, http: httpx2.AsyncClient, servers: Sequence[str], rng: random.Random) -> None:
        super().__init__(run_id)
        self._http = http
        self._servers = servers
        self._rng = rng
        self._retry_seconds = 0.0
        self._terminals = 0

    async def _connect(self) -> None:
        if self.connections:
            await asyncio.sleep(self._retry_seconds * self._rng.uniform(0.5, 1.0))
        self.server = self._servers[self.connections % len(self._servers)]
        self.connections += 1
        self._retry_seconds = 0.5
        by_header = self.connections % 2 == 0
        headers = {"Last-Event-ID": str(self.position)} if by_header else {}
        query = {} if by_header else {"fromSeq": str(self.position)}
        url = f"{self.server}/api/agents/runs/{self.run_id}/stream"
        with suppress(httpx2.HTTPError, OSError):
            async with self._http.stream("GET", url, params=query, headers=headers) as response:
                if response.status_code == httpx2.codes.NO_CONTENT:
                    self.ended = True
                elif response.status_code == httpx2.codes.OK:
                    await self._read_frames(response)
                elif response.status_code < httpx2.codes.INTERNAL_SERVER_ERROR:
                    self.refusal = f"{response.status_code} {(await response.aread()).decode()[:200]}"

    async def _read_frames(self, response: httpx2.Response) -> None:
        rest = b""
        async for piece in response.aiter_bytes():
            *blocks, rest = (rest + piece).split(b"\n\n")
            for block in blocks:
                self._take(dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line))
            if self._terminals > 1:
                self.ended = (
                    True  # Asked again past the end, the server did not say 204: the frames say what went wrong.
                )
                return

    def _take(self, fields: dict[bytes, bytes]) -> None:
        if b"retry" in fields:
            self._retry_seconds = int(fields[b"retry"]) / 1000
        if b"data" in fields:
            event = json.loads(fields[b"data"])
            if int(fields[b"id"]) != event["seq"]:
                self.refusal = f"the frame's id {fields[b'id']!r} is not its event's seq {event['seq']}"
            self._received(event["seq"], event["ts"])
            if event["type"] in ("RunFinished", "RunFailed", "RunCancelled"):
                self._terminals += 1
                self._retry_seconds = 0.0
