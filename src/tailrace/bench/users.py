"""Users of the API, as a process of its own: ``python -m tailrace.bench.users``.

Each holds one connection, starts a run by POST, follows its stream to the end, and starts the next one.  It reads its
plan from stdin and prints how many runs were done.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import cast

import uvloop

RUNS = "/api/agents/runs"
_RUN_ID = re.compile(rb'"runId":"([^"]+)"')
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_BODY = b'{"agent":"steps"}'


class _User(asyncio.Protocol):
    def __init__(self, until: float, done: asyncio.Future[None]) -> None:
        self._until = until
        self._done = done
        self._received = b""
        self._following = False
        self.runs = 0
        self.unfinished = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport by class.
        self._transport = cast("asyncio.Transport", transport)
        self._post()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._following:
            if self._received.endswith(b"\r\n0\r\n\r\n"):
                self._ended()
            return
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        length = _LENGTH.search(head + b"\r\n")
        if length is None or len(body) < int(length[1]):
            return
        run_id = _RUN_ID.search(body)
        if not head.startswith(b"HTTP/1.1 201") or run_id is None:
            self._done.set_exception(RuntimeError(f"a start was answered {head[:60]!r} {body[:200]!r}"))
            return
        self._received, self._following = b"", True
        self._transport.write(b"GET %b/%b/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % (RUNS.encode(), run_id[1]))

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(error or RuntimeError("the server closed a connection"))

    def _ended(self) -> None:
        self.runs += 1
        self.unfinished += b'"type":"RunFinished"' not in self._received
        self._received, self._following = b"", False
        if time.perf_counter() < self._until:
            self._post()
        else:
            self._done.set_result(None)

    def _post(self) -> None:
        self._transport.write(
            b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (RUNS.encode(), len(_BODY), _BODY)
        )


async def work(port: int, users: int, seconds: float) -> dict[str, float]:
    """Let the users work, and return how many runs they did, in how many seconds."""
    begin = time.perf_counter()
    loop = asyncio.get_running_loop()
    working, dones = [], []
    for _ in range(users):
        done: asyncio.Future[None] = loop.create_future()
        user = _User(begin + seconds, done)
        await loop.create_connection(lambda user=user: user, "127.0.0.1", port)  # type: ignore[misc]
        working.append(user)
        dones.append(done)
    await asyncio.gather(*dones)
    return {
        "runs": sum(user.runs for user in working),
        "unfinished": sum(user.unfinished for user in working),
        "seconds": time.perf_counter() - begin,
    }


def main() -> None:
    """Do what the document on stdin says."""
    plan = json.loads(sys.stdin.readline())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.write(json.dumps(runner.run(work(**plan))) + "\n")


if __name__ == "__main__":
    main()
