"""How the ``runs`` commands reach Tailrace: over HTTP, always, so there is one way of doing each thing.

With ``--url`` it is the server there.  Without, it is an API of their own, served for the length of the command on a
socket in a private folder, over the database that the settings name; nothing else need run to list or watch.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from tailrace.app import App
from tailrace.client import Client
from tailrace.http.server import serving
from tailrace.runtime import Role
from tailrace.settings import load_settings

# A process that publishes over memory:// tells nobody else, so this one looks for itself this often.
HEARTBEAT_SECONDS = 1.0
ROLES: tuple[Role, ...] = ("api",)


@asynccontextmanager
async def reach(url: str | None) -> AsyncIterator[Client]:
    """Yield a client for the server at ``url``, or for one of our own."""
    if url is not None:
        async with Client(url) as client:
            yield client
        return
    settings = load_settings().model_copy(
        update={"bus_url": "postgres://", "heartbeat_seconds": HEARTBEAT_SECONDS, "log_level": "error"}
    )
    app = App(settings)
    with tempfile.TemporaryDirectory(prefix="tailrace-") as folder:
        path = str(Path(folder) / "api")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(path)
            listening.listen()
            transport = httpx2.AsyncHTTPTransport(uds=path)
            async with (
                app.running(ROLES),
                serving(app.asgi(roles=ROLES), listening),
                Client("http://localhost", transport=transport) as client,
            ):
                yield client
