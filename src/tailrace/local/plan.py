"""What the supervisor has to know, handed over on its command line (no secrets, then)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Control:
    """The folder in which clients and supervisor meet, and the names of what is in it."""

    folder: Path

    @property
    def start_lock(self) -> Path:
        """Held by the client that starts or joins."""
        return self.folder / "start.lock"

    @property
    def clients_lock(self) -> Path:
        """Shared by the clients."""
        return self.folder / "clients.lock"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor."""
        return self.folder / "supervisor.lock"

    @property
    def password(self) -> Path:
        """The password of the role, readable by the owner alone."""
        return self.folder / "password"

    @property
    def endpoint(self) -> Path:
        """Where the server listens."""
        return self.folder / "endpoint.json"

    @property
    def log(self) -> Path:
        """What the server and the supervisor say."""
        return self.folder / "postgres.log"


@dataclass(frozen=True, slots=True)
class Plan:
    """One server: its folders, its binaries and the account it runs as.

    ``home`` holds ``data`` and ``server.lock``.  ``uid`` is -1 when the server runs as the user of this process.
    """

    control: str
    home: str
    socket_dir: str
    binaries: str
    uid: int
    gid: int

    @property
    def data(self) -> Path:
        """The server's data folder."""
        return Path(self.home) / "data"

    @property
    def server_lock(self) -> Path:
        """Held by the server and all its children."""
        return Path(self.home) / "server.lock"

    def to_json(self) -> str:
        """Write the plan as one word of a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what ``to_json`` wrote."""
        return cls(**json.loads(text))
