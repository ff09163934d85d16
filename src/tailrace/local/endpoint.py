"""What the supervisor tells the clients: where the server listens, or why it could not be started.

The file is there only while the server accepts connections or after the supervisor has given up.  It is believed
only while ``supervisor.lock`` is held, and a client asks the server itself before it believes in the address.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

PORT = 5432
ROLE = "tailrace"
DATABASE = "tailrace"

_PROTOCOL_3_0 = 196608
_ANSWER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server listens; with ``error`` set, why there is no server."""

    socket_dir: str = ""
    error: str = ""


def write_endpoint(path: Path, endpoint: Endpoint) -> None:
    """Replace the file in one step, so that nobody reads half of it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(asdict(endpoint)), encoding="ascii")
    draft.replace(path)


def read_endpoint(path: Path) -> Endpoint | None:
    """Read the file; nothing if there is none or it is not ours."""
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        return Endpoint(**json.loads(path.read_text(encoding="ascii")))
    return None


def accepts_connections(socket_dir: str) -> bool:
    """Ask the server for a connection up to the question for the password.

    A server that is starting, recovering or stopping answers with an error instead, which the mere existence of
    its socket would not tell.
    """
    words = f"user\0{ROLE}\0database\0{DATABASE}\0\0".encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(str(socket_path(socket_dir)))
            connection.sendall(struct.pack("!ii", 8 + len(words), _PROTOCOL_3_0) + words)
            # All of the answer is read: closing with a rest unread would be an error in the server's log.
            return connection.recv(4096)[:1] == b"R"
        except OSError:
            return False


def socket_path(socket_dir: str) -> Path:
    """Path of the socket that Postgres makes in the folder."""
    return Path(socket_dir) / f".s.PGSQL.{PORT}"
