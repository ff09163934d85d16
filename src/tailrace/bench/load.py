"""The client of the measurements: ``python -m tailrace.bench.load``, a process of its own, raw sockets on uvloop.

It reads one JSON document from stdin: where to connect, the streams to open by group, and when to stop.  It prints
``ready`` once every stream has been answered, and at the end one JSON document with what arrived.  It counts events by
a mark that each holds (``"t":`` and the time it was made, in nanoseconds) and reads the times of some connections
only, so that the client costs as little as can be: it shares the machine with what is measured.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import cast

import uvloop

MARK = b'"t":'
# A nanosecond time stamp has 19 digits until the year 2286.
_TIMES = re.compile(rb'"t":\s?(\d{19})')
# Between two chunks of a response; no event holds a CR. Only large writes are cut in the middle of an event.
_BETWEEN_CHUNKS = re.compile(rb"\r\n[0-9a-f]+\r\n")
UNCUT_BYTES = 4096
_LAST_CHUNK = b"0\r\n\r\n"
# More connects at a time than a listen queue of 128 takes would be answered a second later.
CONNECTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What to open and when to stop.

    :param streams: group and path of every stream.
    :param expected: events after which a stream is done; 0: when its response ends.
    :param seconds: after which everything is done, whatever has arrived.
    :param timed_every: of how many connections one has its times read; 0: of none.
    """

    host: str
    port: int
    streams: Sequence[tuple[str, str]]
    seconds: float
    expected: int = 0
    timed_every: int = 1
    headers: str = ""


@dataclass(slots=True)
class Group:
    """What arrived on the streams of one group."""

    streams: int = 0
    received: int = 0
    done: int = 0
    least: int = -1
    opened_ns: int = 0
    first_ns: int = 0
    last_ns: int = 0
    lags_ns: list[int] = field(default_factory=list)


class _Stream(asyncio.Protocol):
    def __init__(self, load: _Load, group: Group, path: str, *, timed: bool) -> None:
        self._load = load
        self._group = group
        self._path = path
        self._timed = timed
        self._answered = False
        self._done = False
        self._carry = b""
        self.received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plan = self._load.plan
        self._group.opened_ns = self._group.opened_ns or time.time_ns()
        # uvloop's transports are no asyncio.Transport by class.
        cast("asyncio.Transport", transport).write(
            f"GET {self._path} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nAccept: text/event-stream\r\n"
            f"Connection: close\r\n{plan.headers}\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if not self._answered:
            if b"\r\n\r\n" not in (self._carry + data):
                self._carry += data
                return
            data, self._carry = self._carry + data, b""
            self._answered = True
            self._load.answered(ok=data.startswith(b"HTTP/1.1 200"))
        now = time.time_ns()
        whole = self._carry + data
        if len(whole) > UNCUT_BYTES:
            whole = _BETWEEN_CHUNKS.sub(b"", whole)
        if self._timed:
            # A time that is cut off waits for the rest: what is carried begins at its mark.
            times = _TIMES.findall(whole)
            count = len(times)
            self._group.lags_ns.extend([now - int(each) for each in times])
            cut = whole.rfind(MARK)
            self._carry = whole[cut:] if cut >= 0 and not _TIMES.match(whole, cut) else whole[-(len(MARK) - 1) :]
        else:
            count = whole.count(MARK)
            self._carry = whole[-(len(MARK) - 1) :]
        if count:
            group = self._group
            group.first_ns = group.first_ns or now
            group.last_ns = now
            self.received += count
            expected = self._load.plan.expected
            if expected and self.received >= expected:
                self._finish()
        if data.endswith(_LAST_CHUNK):
            self._finish()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self._answered:
            self._answered = True
            self._load.answered(ok=False)
        self._finish()

    def _finish(self) -> None:
        if not self._done:
            self._done = True
            self._group.done += 1
            self._load.finished()


class _Load:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.refused = 0
        self._waiting = self._open = len(plan.streams)
        self._ready = asyncio.Event()
        self._finished = asyncio.Event()
        self._slots = asyncio.Semaphore(CONNECTS_AT_ONCE)

    async def run(self) -> dict[str, object]:
        groups: dict[str, Group] = {}
        streams: list[tuple[Group, _Stream]] = []
        for number, (name, path) in enumerate(self.plan.streams):
            group = groups.setdefault(name, Group())
            group.streams += 1
            timed = self.plan.timed_every > 0 and number % self.plan.timed_every == 0
            streams.append((group, _Stream(self, group, path, timed=timed)))
        await asyncio.gather(*(self._connect(stream) for _, stream in streams))
        await self._ready.wait()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        try:
            async with asyncio.timeout(self.plan.seconds):
                await self._finished.wait()
        except TimeoutError:
            pass
        for group, stream in streams:
            group.received += stream.received
            group.least = stream.received if group.least < 0 else min(group.least, stream.received)
        return {"refused": self.refused, "groups": {name: _summary(group) for name, group in groups.items()}}

    def answered(self, *, ok: bool) -> None:
        self.refused += not ok
        self._waiting -= 1
        if self._waiting == 0:
            self._ready.set()

    def finished(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._finished.set()

    async def _connect(self, stream: _Stream) -> None:
        async with self._slots:
            await asyncio.get_running_loop().create_connection(lambda: stream, self.plan.host, self.plan.port)


def _summary(group: Group) -> dict[str, object]:
    found = asdict(group)
    lags = sorted(found.pop("lags_ns"))
    # Nearest rank; with few samples the p99 is the largest.
    ranks = {name: lags[min(len(lags) - 1, int(len(lags) * share))] / 1e6 for name, share in _SHARES.items() if lags}
    return found | {"timed": len(lags)} | ranks


_SHARES = {"p50_ms": 0.5, "p99_ms": 0.99, "max_ms": 1.0}


def main() -> None:
    """Do what the document on stdin says."""
    plan = Plan(**json.loads(sys.stdin.readline()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, len(plan.streams) + 100)), hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.write(json.dumps(runner.run(_Load(plan).run())) + "\n")


if __name__ == "__main__":
    main()
