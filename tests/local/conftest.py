"""Real servers in folders of their own, and processes that can be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tailrace.local import start
from tailrace.local.orphans import holders
from tailrace.local.plan import Control
from tests.local.processes import ClientProcess, is_alive, until

# Two servers' data at a time.
MEMORY_BYTES_MIN = 300 * 1024 * 1024


class Folder:
    """A data folder, and who is at work in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.control = Control(path.resolve() / "pg18")

    def supervisors(self) -> set[int]:
        lock = self.control.supervisor_lock
        return holders(lock) if lock.exists() else set()

    def servers(self) -> set[int]:
        """The postmaster and its children."""
        data = self.control.folder / "data"
        home = data.readlink().parent if data.is_symlink() else self.control.folder
        lock = home / "server.lock"
        return holders(lock) if lock.exists() else set()

    def supervisor(self) -> int:
        (supervisor,) = self.supervisors()
        return supervisor

    def postmaster(self) -> int:
        text = (self.control.folder / "data/postmaster.pid").read_text()
        return int(text.splitlines()[0])

    def await_stopped(self) -> None:
        until(lambda: not self.servers() and not self.supervisors(), "the server has stopped")

    def stop(self) -> None:
        """Stop the server without waiting for the grace time; nobody has a share any more."""
        for process in self.supervisors():
            os.kill(process, signal.SIGTERM)
        self.await_stopped()

    def crash(self) -> None:
        """Kill everything at once, as a power cut does."""
        for process in self.supervisors():
            os.kill(process, signal.SIGKILL)
        for process in self.servers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.await_stopped()

    def remove(self) -> None:
        """Remove the folder and what it leads to; the server stops by itself when that has gone."""
        outside = []
        for name in ("data", "socket"):
            link = self.control.folder / name
            if link.is_symlink():
                outside.append(link.readlink().parent if name == "data" else link.readlink())
        processes = self.supervisors() | self.servers()
        for place in (self.path, *outside):
            shutil.rmtree(place, ignore_errors=True)
        until(lambda: not any(map(is_alive, processes)), "the server has stopped as its folder was removed")
        # What it still wrote meanwhile; the next test may use the same name.
        for place in (self.path, *outside):
            if place.exists():
                shutil.rmtree(place)


@pytest.fixture(scope="session")
def parent() -> Iterator[Path]:
    """A folder that all can enter, in memory if possible: initdb is three times as fast there."""
    memory = Path("/dev/shm")  # noqa: S108 # a new folder is made in it
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_BYTES_MIN
    folder = Path(tempfile.mkdtemp(prefix="tailrace-test-", dir=memory if roomy else None))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def initialised(parent: Path) -> Path:
    """A folder with data and no server, to be copied."""
    folder = Folder(parent / "initialised")
    start(folder.path).close()
    folder.stop()
    return folder.path


@pytest.fixture
def make_folder(parent: Path) -> Iterator[Callable[[str], Folder]]:
    """Make empty data folders with chosen names, which are removed at the end."""
    folders = []

    def make(name: str) -> Folder:
        folders.append(Folder(parent / name))
        return folders[-1]

    yield make
    for folder in folders:
        folder.remove()


@pytest.fixture
def empty_folder(make_folder: Callable[[str], Folder]) -> Folder:
    """A folder that does not exist yet."""
    return make_folder("data")


@pytest.fixture
def folder(empty_folder: Folder, initialised: Path) -> Folder:
    """A folder that was used before."""
    subprocess.run(["cp", "-a", initialised, empty_folder.path], check=True)
    return empty_folder


@pytest.fixture
def make_client(make_folder: Callable[[str], Folder]) -> Iterator[Callable[..., ClientProcess]]:
    """Start processes that hold a share of the server; they end before the folders are removed."""
    clients: list[ClientProcess] = []

    def make(folder: Folder) -> ClientProcess:
        clients.append(ClientProcess(folder.path))
        return clients[-1]

    yield make
    for client in clients:
        client.kill()
