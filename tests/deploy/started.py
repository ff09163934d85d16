"""The processes that ``described`` has read, started; each has an address of its own, as a container has."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.deploy.described import Program
from tests.patience import PATIENCE_SECONDS, TRIES

TAILRACE = Path(sys.executable).parent / "tailrace"
AGENTS = Path(__file__).parent / "agents.py"


@dataclass(frozen=True)
class Place:
    """Where things are in the test, by where the files say that they are."""

    folder: Path
    replaced: Mapping[str, str]

    def here(self, text: str) -> str:
        """Return a text of the files with the test's own places in it."""
        for there, here in self.replaced.items():
            text = text.replace(there, here)
        return text


class Started:
    """One process; ``address`` is where it was told to listen."""

    def __init__(self, program: Program, process: subprocess.Popen[bytes], log: Path, address: str) -> None:
        self.program = program
        self.process = process
        self.address = address
        self._log = log

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def port(self) -> int:
        arguments = self.program.arguments
        return int(arguments[arguments.index("--port") + 1])

    def said(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of its log that tell of ``event``."""
        lines = (json.loads(line) for line in self._log.read_text("utf-8").splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    async def until_healthy(self) -> None:
        """Wait until it serves."""
        async with (
            httpx2.AsyncClient(base_url=self.url, timeout=PATIENCE_SECONDS) as http,
            asyncio.timeout(PATIENCE_SECONDS),
        ):
            while True:
                assert self.process.poll() is None, self._log.read_text("utf-8")
                try:
                    if (await http.get("/healthz")).status_code == httpx2.codes.OK:
                        return
                except httpx2.TransportError:
                    await asyncio.sleep(0.02)

    async def stop(self) -> float:
        """Ask it to end as its supervisor would; return the seconds that took, which must be within its grace."""
        since = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(self.process.wait, self.program.grace_seconds)
        assert code == 0, self._log.read_text("utf-8")
        return time.monotonic() - since


def environment(place: Place, program: Program) -> dict[str, str]:
    """Return what the process finds in its environment: what the file says, and what Python needs here."""
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "HOME") if name in os.environ}
    path = f"{TAILRACE.parent}:{os.environ['PATH']}"
    return kept | {"PATH": path} | {name: place.here(value) for name, value in program.environment.items()}


def working_folder(place: Place, program: Program) -> Path:
    """Return the working folder, with the agents and the program's `.env` in it."""
    folder = place.folder / ("srv" if program.dotenv is not None else "srv-plain")
    folder.mkdir(exist_ok=True)
    (folder / "agents.py").write_bytes(AGENTS.read_bytes())
    if program.dotenv is not None:
        (folder / ".env").write_text(place.here(program.dotenv), "utf-8")
    return folder


def ended(place: Place, program: Program, *arguments: str) -> str:
    """Run a program of the files to its end, which must be a good one; return what it printed.

    :param arguments: in the place of its own.
    """
    return subprocess.run(
        [TAILRACE, *(arguments or program.arguments)],
        env=environment(place, program),
        cwd=working_folder(place, program),
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    ).stdout


def upgraded(place: Place, program: Program) -> str:
    """Run `tailrace db upgrade` as a program of the files, and return what it printed.

    It gives up when no connection comes in time, and says that it may be tried again: the Job of Kubernetes is, and
    here it is so three times.
    """
    said = []
    for _ in range(TRIES - 1):
        try:
            said.append(ended(place, program))
            return "".join(said)
        except subprocess.CalledProcessError as error:
            if "could not connect to" not in error.stderr:
                raise
            said.append(error.stdout)
    return "".join([*said, ended(place, program)])


@contextmanager
def started(place: Place, name: str, program: Program, address: str) -> Iterator[Started]:
    """Start a program of the files, listening on ``address`` where it would on all that its container has."""
    log = place.folder / f"{name}.log"
    arguments = [address if each == "0.0.0.0" else each for each in program.arguments]  # noqa: S104 - the one it replaces
    with log.open("wb") as file:
        process = subprocess.Popen(
            [TAILRACE, *arguments],
            env=environment(place, program),
            cwd=working_folder(place, program),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
        )
    try:
        yield Started(program, process, log, address)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
