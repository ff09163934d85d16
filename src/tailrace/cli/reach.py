"""How the ``runs`` commands reach Tailrace: over HTTP, always, so there is one way of doing each thing.

With ``--url`` it is the server there, which is shown the key of ``--api-key-file`` or ``TAILRACE_API_KEY``.  Without,
it is an API of their own, served for the length of the command on a socket in a private folder, over the database that
the settings name; nothing else need run to list or watch.  Whoever has the database needs no key: this API asks for
none, and shows the runs of all tenants.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
from pydantic import SecretStr

from tailrace.client import Client
from tailrace.errors import UsageError
from tailrace.settings import Settings, load_settings

if TYPE_CHECKING:
    from tailrace.app import App
    from tailrace.runtime import Role

# A process that publishes over another bus does not tell this one, so this one looks for itself this often.
HEARTBEAT_SECONDS = 1.0
ROLES: tuple[Role, ...] = ("api",)


@asynccontextmanager
async def reach(url: str | None, api_key_file: Path | None = None) -> AsyncIterator[Client]:
    """Yield a client for the server at ``url``, or for one of our own."""
    if url is not None:
        async with Client(url, api_key=api_key_of(api_key_file)) as client:
            yield client
        return
    settings = load_settings().model_copy(
        update={
            "api_keys_file": None,
            "bus_url": SecretStr("postgres://"),
            "heartbeat_seconds": HEARTBEAT_SECONDS,
            "log_level": "error",
        }
    )
    async with own_api(settings) as (root, transport), Client(root, transport=transport) as client:
        yield client


@asynccontextmanager
async def own_api(settings: Settings) -> AsyncIterator[tuple[str, httpx2.AsyncHTTPTransport]]:
    """Serve an API of our own, for an operator, inside the block; yield its root and the way to it."""
    # Here, for a command with `--url` has no use for a server.
    from tailrace.app import App  # noqa: PLC0415
    from tailrace.http.server import serving  # noqa: PLC0415

    app = App(settings)
    with tempfile.TemporaryDirectory(prefix="tailrace-") as folder:
        path = str(Path(folder) / "api")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(path)
            listening.listen()
            async with _running_for_operator(app), serving(app.asgi(roles=ROLES), listening):
                yield "http://localhost", httpx2.AsyncHTTPTransport(uds=path)


@asynccontextmanager
async def _running_for_operator(app: App) -> AsyncIterator[None]:
    from tailrace.access.credentials import Credentials  # noqa: PLC0415 - as above
    from tailrace.access.principal import OPERATOR  # noqa: PLC0415

    async with app.running(ROLES):
        app.services().credentials = Credentials(token_seconds=1, resume_seconds=1, principal=OPERATOR)
        yield


def api_key_of(file: Path | None) -> str | None:
    """Return the key for ``--url``, None where there is none; raise ``UsageError`` for a file that holds none."""
    if file is None:
        setting = load_settings().api_key
        return setting.get_secret_value() if setting is not None else None
    try:
        return file.read_text("ascii").strip()
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--api-key-file {file}: {getattr(error, 'strerror', None) or 'is not a key'}") from None
