"""nchan, the module of nginx that fans messages out: not durable, in C, one worker."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from bench.peer import accepting, free_port
from bench.redis_stream import event_of
from tailrace.bench import delivery, fanout, idle
from tailrace.bench.children import BenchError, child, cpu_seconds
from tailrace.bench.place import Place
from tailrace.bench.row import Figures, Reference
from tailrace.bench.server import loading

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
HEADERS = "Accept: text/event-stream\r\n"
CONFIGURATION = """
load_module {module};
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log error;
events {{ worker_connections 8000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    keepalive_requests 10000000;
    nchan_max_reserved_memory 256M;
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location ~ ^/publish/(.+)$ {{
            nchan_publisher http; nchan_channel_id $1; nchan_message_buffer_length 1000; nchan_message_timeout 60s;
        }}
        location ~ ^/stream/(.+)$ {{
            nchan_subscriber eventsource; nchan_channel_id $1; nchan_subscriber_first_message oldest;
        }}
    }}
}}
"""


def missing() -> str | None:
    """Return why it cannot be measured here."""
    if NGINX is None or not MODULE.is_file():
        return "nginx with nchan is not installed; on Debian: apt-get install nginx-light libnginx-mod-nchan"
    return None


@asynccontextmanager
async def server(place: Place) -> AsyncIterator[tuple[int, int]]:
    """Run nginx inside the block; yield its port and the pid of its worker."""
    port = free_port()
    # Not named by the port, which may come again.
    folder = Path(tempfile.mkdtemp(prefix="nginx-", dir=place.folder))
    folder.chmod(0o755)
    configuration = folder / "nginx.conf"
    user = "user root;" if os.getuid() == 0 else ""
    configuration.write_text(CONFIGURATION.format(module=MODULE, folder=folder, port=port, user=user), "utf-8")
    command = [str(NGINX), "-p", str(folder), "-c", str(configuration), "-e", str(folder / "start.log")]
    async with child(command, folder=place.folder) as process:
        await accepting(port, process, place.folder)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        # The master listens before its worker is there.
        while not (workers := children.read_text("ascii").split()):
            await asyncio.sleep(0.01)
        yield port, int(workers[0])


class Publisher:
    """One connection that is kept, on which each message is a request."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def publish(self, channel: str, number: int) -> None:
        body = event_of(channel, number + 1)
        self._writer.write(
            b"POST /publish/%b HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"
            % (channel.encode(), len(body), body)
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith((b"HTTP/1.1 201", b"HTTP/1.1 202")):
            raise BenchError(f"nchan answered {head[:40]!r}")
        length = next(each for each in head.lower().split(b"\r\n") if each.startswith(b"content-length:"))
        await self._reader.readexactly(int(length.split(b":")[1]))


async def _pace(port: int, channel: str, value: dict[str, object], begin: float) -> None:
    publisher = Publisher(port)
    await publisher.open()
    count, interval, phase = int(str(value["count"])), float(str(value["interval"])), float(str(value["phase"]))
    for number in range(count):
        await asyncio.sleep(max(0.0, begin + phase + number * interval - time.monotonic()))
        await publisher.publish(channel, number)


async def fan_out(place: Place, *, rate: float) -> Figures:
    """Publish to one channel that all clients follow."""
    value = fanout.pacing("", rate, place.scale.seconds)
    async with (
        server(place) as (port, pid),
        loading(place, fanout.plan(port, "/stream/one", value, place.scale.clients)) as load,
    ):
        before = cpu_seconds([pid])
        await _pace(port, "one", value, time.monotonic())
        arrived = (await load.arrived())["all"]
        after = cpu_seconds([pid])
    return fanout.figures(arrived, value, before, after)


async def deliver(place: Place, *, rate: float) -> Figures:
    """Publish to 100 channels, each with a client."""
    inputs = delivery.pacing("", rate, place.scale.seconds, delivery.RUNS)
    async with server(place) as (port, _):
        paths = [f"/stream/{number}" for number in range(delivery.RUNS)]
        async with loading(place, delivery.plan(port, paths, inputs)) as load:
            begin = time.monotonic() + 0.1
            await asyncio.gather(*(_pace(port, str(number), value, begin) for number, value in enumerate(inputs)))
            return delivery.figures((await load.arrived())["all"], inputs)


async def idling(place: Place) -> Figures:
    """Open streams on channels that wait."""
    async with server(place) as (port, pid):
        return await idle.growth(place, port, pid, [f"/stream/{number}" for number in range(idle.RUNS)])


NAME = fanout.NCHAN
IDLE = Reference(NAME, idling, missing)


def fan_out_at(rate: float) -> Reference:
    """Return the reference of the rows on fan-out."""
    return Reference(NAME, partial(fan_out, rate=rate), missing)


def delivery_at(rate: float) -> Reference:
    """Return the reference of the rows on delivery."""
    return Reference(f"{NAME}, not durable", partial(deliver, rate=rate), missing)
