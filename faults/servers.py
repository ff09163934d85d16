"""The processes under test: ``tailrace serve``, each with its role, a port and a link to Postgres of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2

from faults.children import free_port, spawn
from faults.cluster import Cluster
from faults.proxy import Link

ROOT = Path(__file__).resolve().parent.parent
AGENTS = ROOT / "faults" / "agents.py"
START_SECONDS = 60.0
GAVE_UP = "could not connect to Postgres"
LEASE_SECONDS = 3.0
TX_TIMEOUT_MS = 2000
HEARTBEAT_SECONDS = 2.0


class Server:
    """One process; it keeps its port through every restart, as behind a load balancer."""

    def __init__(self, name: str, role: str, link: Link, environment: dict[str, str], folder: Path, bad: str | None):
        self.name = name
        self.role = role
        self.link = link
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"{name}.log"
        self._environment = environment
        self._folder = folder
        self._bad = bad
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 when it was never started."""
        return self._process.pid if self._process is not None else 0

    @property
    def exit_code(self) -> int | None:
        """How the process ended, None while it lives."""
        return self._process.poll() if self._process is not None else None

    def start(self) -> None:
        """Start the process."""
        module = ["tailrace"] if self._bad is None else ["faults.serve", self._bad]
        command = [sys.executable, "-m", *module, "serve", "--role", self.role, "--port", str(self.port)]
        if self.role in ("worker", "all"):
            command += ["--app", str(AGENTS)]
        with self.log.open("ab") as log:
            self._process = spawn(command, environment=self._environment, log=log, folder=self._folder)

    async def ready(self) -> None:
        """Return once the process answers that it is ready.

        One that gave up at its start, for Postgres did not answer in time, is started again, as by a supervisor.
        """
        deadline = time.monotonic() + START_SECONDS
        async with httpx2.AsyncClient(timeout=2) as http:
            while True:
                try:
                    if (await http.get(f"{self.url}/readyz")).status_code == httpx2.codes.OK:
                        return
                except (httpx2.HTTPError, OSError):
                    pass
                if self.exit_code == 1 and GAVE_UP in self.log.read_text()[-500:]:
                    self.start()
                if self.exit_code is not None:
                    raise RuntimeError(f"{self.name} ended with {self.exit_code}:\n{self.log.read_text()[-2000:]}")
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} was not ready:\n{self.log.read_text()[-2000:]}")
                await asyncio.sleep(0.1)

    async def kill(self) -> int:
        """Kill -9, and return how the process ended."""
        assert self._process is not None
        self._process.kill()
        return await asyncio.to_thread(self._process.wait)

    def freeze(self) -> None:
        """Stop the process as a paused virtual machine is stopped: its sockets stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, not knowing that time has passed."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the process at once, frozen or not."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def logged(self, text: str) -> int:
        """Return how often its log has said ``text``."""
        return self.log.read_text(errors="replace").count(text) if self.log.exists() else 0


def environment_for(cluster: Cluster, link: Link, bus_url: str, acks: Path) -> dict[str, str]:
    """Return what a server finds around it: nothing of ours but what is set here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return kept | {
        "PYTHONPATH": path,
        "FAULTS_ACKS": str(acks),
        "TAILRACE_DATABASE_URL": cluster.url(link.port),
        "TAILRACE_BUS_URL": bus_url,
        "TAILRACE_LEASE_SECONDS": str(LEASE_SECONDS),
        "TAILRACE_TX_TIMEOUT_MS": str(TX_TIMEOUT_MS),
        "TAILRACE_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
    }
