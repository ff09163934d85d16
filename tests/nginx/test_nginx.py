"""Streams through a real nginx with the configuration that we ship."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

import tailrace
from tailrace.settings import Settings
from tests.hostile.served import API, Server, served
from tests.patience import PATIENCE_SECONDS
from tests.read_support import RUNS, HandWrittenRun, RawAnswer, publish_all, request, until
from tests.servers import free_port

SHIPPED = Path(__file__).parent.parent.parent / "deploy" / "nginx"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
# Everything that a distribution's nginx.conf may hold against streams: compression of all that is text, and caching.
MAIN = """
daemon off;
{user}
pid nginx.pid;
error_log logs/error.log notice;
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    gzip on; gzip_min_length 0; gzip_types *; gzip_proxied any;
    include conf.d/*.conf;
}}
"""
HEAD_SECONDS = 1

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx; on Debian: apt-get install nginx-light")


class Proxied:
    """nginx in front of a server of ours; ``port`` is nginx's."""

    def __init__(self, server: Server, port: int, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.server = server
        self.port = port
        self.folder = folder
        self.process = process

    @property
    def log(self) -> str:
        return (self.folder / "logs" / "error.log").read_text("utf-8")

    async def run(self) -> HandWrittenRun:
        run = await HandWrittenRun.start(self.server.app.services().database, "r")
        await self.publish()
        return run

    async def publish(self) -> None:
        services = self.server.app.services()
        await publish_all(services.database, services.bus)

    @asynccontextmanager
    async def stream(self, position: int = 0) -> AsyncIterator[RawAnswer]:
        headers = {"Last-Event-ID": str(position), "Accept-Encoding": "gzip"}
        async with request(self.port, f"{RUNS}/r/stream", headers=headers) as answer:
            yield answer


@pytest.fixture
async def proxied(settings: Callable[..., Settings], tmp_path: Path) -> AsyncIterator[Proxied]:
    app = tailrace.App(settings(heartbeat_seconds=30))
    async with app.running(API), served(app) as server:
        await app.services().leases.record_agents(["echo"])
        async with _nginx(tmp_path, server) as started:
            yield started
        await until(lambda: app.services().streams_open == 0, "every stream is closed")


@asynccontextmanager
async def _nginx(folder: Path, server: Server) -> AsyncIterator[Proxied]:
    assert NGINX is not None
    port = free_port()
    (folder / "logs").mkdir()
    (folder / "conf.d").mkdir()
    for name, changes in {
        "tailrace.conf": (
            ("listen 8080;", f"listen 127.0.0.1:{port};"),
            ("client_header_timeout 10s;", f"client_header_timeout {HEAD_SECONDS}s;"),
            ("access_log /var/log/nginx/access.log", "access_log logs/tailrace.log"),
        ),
        "tailrace-upstream.conf": (("server 127.0.0.1:8400;", f"server 127.0.0.1:{server.port};"),),
    }.items():
        text = (SHIPPED / name).read_text("utf-8")
        for shipped, here in changes:
            assert text.count(shipped) == 1, shipped
            text = text.replace(shipped, here)
        (folder / "conf.d" / name).write_text(text, "utf-8")
    (folder / "nginx.conf").write_text(MAIN.format(user="user root;" if os.getuid() == 0 else ""), "utf-8")
    command = [NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "logs/error.log"]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        await until(lambda: _accepts(port) or process.returncode is not None, "nginx listens")
        assert process.returncode is None, (folder / "logs" / "error.log").read_text("utf-8")
        yield Proxied(server, port, folder, process)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_events_arrive_as_they_happen_and_as_they_are(proxied: Proxied) -> None:
    """Each before the next is written, uncompressed, with the heads that say so."""
    run = await proxied.run()
    async with proxied.stream() as answer:
        assert answer.status == 200
        assert answer.header("content-type") == "text/event-stream"
        assert answer.header("cache-control") == "no-cache, no-transform"
        assert answer.header("content-encoding") is None
        await answer.upto(1)
        for _ in range(5):
            await run.append_many(1)
            await proxied.publish()
            await answer.upto(run.last_seq, position=run.last_seq - 1)
        await run.finish()
        await proxied.publish()
        assert await answer.seqs() == [run.last_seq]


async def test_a_client_that_comes_back_resumes_where_it_was(proxied: Proxied) -> None:
    """`Last-Event-ID` passes, and so does the 204 that tells a client to stop."""
    run = await proxied.run()
    await run.append_many(9)
    await run.finish()
    await proxied.publish()
    async with proxied.stream() as first:
        seen = [(await first.event() or {})["seq"] for _ in range(4)]
    async with proxied.stream(seen[-1]) as second:
        seen += await second.seqs()
    assert seen == list(range(1, 12))
    async with proxied.stream(11) as done:
        assert done.status == 204


async def test_a_reload_loses_nothing(proxied: Proxied) -> None:
    """The worker that is replaced goes on with its streams; a client that comes meanwhile is served by the next."""
    run = await proxied.run()
    async with proxied.stream() as before:
        await before.upto(1)
        proxied.process.send_signal(signal.SIGHUP)
        await until(lambda: "gracefully shutting down" in proxied.log, "the old worker was told to end")
        async with proxied.stream() as after:
            await after.upto(1)
            await run.append_many(20)
            await run.finish()
            await proxied.publish()
            assert await before.seqs() == list(range(2, 23))
            assert await after.seqs() == list(range(2, 23))
    await until(lambda: re.search(r"worker process \d+ exited with code 0", proxied.log) is not None, "it has ended")


async def test_a_client_that_goes_away_ends_its_stream_in_the_server(proxied: Proxied) -> None:
    """Else every closed tab would hold a stream until it is rotated."""
    await proxied.run()
    services = proxied.server.app.services()
    async with proxied.stream() as answer:
        await answer.upto(1)
        assert services.streams_open == 1
    await until(lambda: services.streams_open == 0, "the server has noticed")


async def test_what_a_client_may_choose_is_bounded_by_the_proxy(proxied: Proxied) -> None:
    """Request line, headers, body, and a head that does not come; ours to bound too, but the proxy stands in front."""
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{proxied.port}", timeout=PATIENCE_SECONDS) as http:
        assert (await http.get(f"{RUNS}?agent={'x' * 9000}")).status_code == 414
        assert (await http.get(RUNS, headers={"X": "x" * 20_000})).status_code == 400
        assert (await http.post(RUNS, content=b" " * ((1 << 20) + 1))).status_code == 413
        assert (await http.post(RUNS, json={"agent": "echo"})).status_code == 201
    reader, writer = await asyncio.open_connection("127.0.0.1", proxied.port)
    writer.write(b"GET /healthz HTTP/1.1\r\n")
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(ConnectionResetError):
            await reader.read()
    writer.close()
    assert "?agent=" not in (proxied.folder / "logs" / "tailrace.log").read_text("utf-8")
