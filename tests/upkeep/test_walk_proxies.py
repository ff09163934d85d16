"""The canary through a real nginx: ours, one that buffers, one that compresses, one that leads elsewhere."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tailrace.settings import Settings
from tailrace.upkeep.finding import Code
from tests.outage_support import Served, served
from tests.servers import free_port
from tests.upkeep.conftest import AGENTS, Doctor, well
from tests.write_support import until

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CONFIGURATION = """
daemon off;
{user}
pid nginx.pid;
error_log error.log notice;
events {{ worker_connections 64; }}
http {{
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    access_log off;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {to};
            proxy_set_header Host $host;
            {more}
        }}
    }}
}}
"""
PASSING = "proxy_buffering off; proxy_http_version 1.1;"
# nginx alone sends on what it has buffered when it is not busy (seen with 1.22); its compressor keeps it.
BUFFERING = (
    "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"
    " gzip on; gzip_types text/event-stream; gzip_min_length 0; gzip_proxied any;"
)
COMPRESSING = "proxy_buffering off; gzip on; gzip_types text/event-stream; gzip_min_length 0; gzip_proxied any;"

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx; on Debian: apt-get install nginx-light")


@asynccontextmanager
async def nginx(folder: Path, to: str, more: str) -> AsyncIterator[str]:
    """Run nginx before ``to`` and yield its URL."""
    assert NGINX is not None
    port = free_port()
    folder.mkdir()  # noqa: ASYNC240 - on a local disk
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(CONFIGURATION.format(user=user, port=port, to=to, more=more), "utf-8")
    process = await asyncio.create_subprocess_exec(NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log")

    async def accepts() -> bool | None:
        assert process.returncode is None, (folder / "error.log").read_text("utf-8")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0 or None

    try:
        await until(accepts)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_what_a_proxy_does_to_the_stream_is_recognised(server: Served, doctor: Doctor, tmp_path: Path) -> None:
    """Buffered, compressed, and neither: each told apart, with what is to be set."""
    async with nginx(tmp_path / "passing", server.address, PASSING) as url:
        assert (await well(doctor, "--url", url)).findings == []
    async with nginx(tmp_path / "buffering", server.address, BUFFERING) as url:
        told = await doctor("--url", url)
        assert told.codes == [Code.PROXY_BUFFERS, Code.PROXY_COMPRESSES]
        assert "proxy_buffering off" in told.of("proxy-buffers")["action"]
        assert url in told.of("proxy-buffers")["detail"]
    async with nginx(tmp_path / "compressing", server.address, COMPRESSING) as url:
        told = await doctor("--url", url)
        assert Code.PROXY_COMPRESSES in told.codes
        assert set(told.codes) <= {Code.PROXY_COMPRESSES, Code.PROXY_BUFFERS}
        assert "gzip" in told.of("proxy-compresses")["detail"]


async def test_a_url_that_leads_nowhere_or_elsewhere_is_a_finding(
    server: Served, doctor: Doctor, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """It was asked for, so it counts: nobody there, a proxy without its server, a page that is not Tailrace's."""
    assert (await doctor("--url", f"http://127.0.0.1:{free_port()}")).codes == [Code.URL_UNREACHABLE]
    async with nginx(tmp_path / "orphaned", f"http://127.0.0.1:{free_port()}", PASSING) as url:
        assert "502" in (await doctor("--url", url)).of("url-unreachable")["detail"]
    assert (await doctor("--url", f"{server.address}/elsewhere")).codes == [Code.URL_UNREACHABLE]


async def test_a_server_with_keys_wants_one(doctor: Doctor, settings: Callable[..., Settings], tmp_path: Path) -> None:
    """TAILRACE_API_KEY, as for the other commands; without it the finding says which scopes it takes."""
    keys = tmp_path / "keys.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tailrace", "keys", "create", "--name", "ops", "--tenant", "acme"),
        *("--scopes", "runs:read,runs:write"),
        env=os.environ | {"TAILRACE_API_KEYS_FILE": str(keys)},
        stdout=asyncio.subprocess.PIPE,
    )
    key = (await process.communicate())[0].decode().strip()
    async with served(settings(), app=AGENTS, TAILRACE_API_KEYS_FILE=str(keys)) as server:
        refused = await doctor("--url", server.address)
        assert "runs:read and runs:write" in refused.of("url-unreachable")["detail"]
        told = await well(doctor, "--url", server.address, TAILRACE_API_KEY=key)
        assert told.findings == []
        assert key not in told.out
