"""A peer's process: ``python -m bench.<module>`` reads one JSON document from stdin and answers with JSON lines."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tailrace.bench.children import PATIENCE_SECONDS, BenchError, child, line
from tailrace.bench.place import Place
from tailrace.bench.server import own_environment

ROOT = Path(__file__).parent.parent


@asynccontextmanager
async def peer(place: Place, module: str, **plan: object) -> AsyncIterator[tuple[dict[str, Any], int]]:
    """Run a peer inside the block; yield its first answer and its pid."""
    path = os.pathsep.join(each for each in (str(ROOT), os.environ.get("PYTHONPATH", "")) if each)
    command = [sys.executable, "-m", f"bench.{module}"]
    environment = own_environment() | {"PYTHONPATH": path}
    async with child(command, environment=environment, folder=place.folder) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(plan).encode() + b"\n")
        await process.stdin.drain()
        said = await line(process, place.folder, seconds=place.scale.seconds * 4 + PATIENCE_SECONDS)
        yield json.loads(said), process.pid


async def answer(place: Place, module: str, **plan: object) -> dict[str, float]:
    """Run a peer to its answer: its figures."""
    async with peer(place, module, **plan) as (said, _):
        return said


def plan_on_stdin() -> dict[str, Any]:
    """Return what this process, a peer's, was told to do."""
    plan: dict[str, Any] = json.loads(sys.stdin.readline())
    return plan


def say(document: dict[str, Any]) -> None:
    """Answer."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def needs(*packages: str) -> Callable[[], str | None]:
    """Return a check that says which of these packages is not installed."""

    def missing() -> str | None:
        absent = [package for package in packages if not _installed(package)]
        return f"{', '.join(absent)} not installed (pip install --group bench)" if absent else None

    return missing


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


async def accepting(port: int, process: Any, folder: Path) -> None:
    """Wait until a server accepts connections on a port."""
    for _ in range(1000):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None:
                said = (folder / "child.err").read_text("utf-8", "replace")[-1000:]
                raise BenchError(f"a server ended with {process.returncode}: {said}") from None
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return
    raise BenchError(f"nothing listens on port {port}")
