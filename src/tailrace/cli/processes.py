"""Several server processes on one port: ``tailrace serve --processes N``.

The parent serves nothing.  It opens the port and starts the processes, each a whole ``tailrace serve`` of its own, to
which it leaves the open socket.  They take its connections as they have time: one that waits while a process dies is
another's.

    starting ──says that it is ready──▶ ready ──ends──▶ waiting ──a moment, longer each time──▶ starting
       └─────ends, the first time: all are stopped, and its exit code is ours

The first is started alone: what is wrong with the settings or the database is then said once, and an embedded Postgres
is made and upgraded once.  A socket pair ties each process to the parent.  The child says by it that it is ready, and
learns by its end that the parent has died, however that came about, and stops too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tailrace.errors import UsageError
from tailrace.worker.signals import on_stop

log = logging.getLogger("tailrace.processes")

PROCESSES_MAX = 64
# Before a process that has ended is started again.
RESTART_FIRST_SECONDS, RESTART_MAX_SECONDS = 0.1, 5.0
# One that lasted so long did not die of how it was started.
LASTED_SECONDS = 10.0
# A process bounds its own end: streams at once, requests 5 s, agents 10 s, what is unpublished 2 s.
STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a child is given: descriptors of the port and of the pair with its parent, its number, all their folder."""

    listening: int
    parent: int
    name: str
    folder: Path

    def to_text(self) -> str:
        """Return it as the value of an option."""
        return f"{self.listening}:{self.parent}:{self.name}:{self.folder}"

    @classmethod
    def of_text(cls, text: str) -> Inherited:
        """Return what ``to_text`` has written."""
        try:
            listening, parent, name, folder = text.split(":", 3)
            return cls(int(listening), int(parent), str(int(name)), Path(folder))
        except ValueError:
            raise UsageError("--child-of is for the processes that --processes starts") from None

    def ready(self) -> None:
        """Tell the parent that this process serves."""
        with suppress(OSError):
            os.write(self.parent, b"r")

    def stop_without_parent(self) -> None:
        """Stop this process, as by SIGTERM, when the parent has died; needs the running loop."""
        loop = asyncio.get_running_loop()

        def parent_died() -> None:
            loop.remove_reader(self.parent)
            signal.raise_signal(signal.SIGTERM)

        loop.add_reader(self.parent, parent_died)


class Processes:
    """Keeps ``count`` processes of one command running until it is asked to stop."""

    def __init__(self, command: Sequence[str], listening: socket.socket, count: int) -> None:
        self._command = [sys.executable, "-m", "tailrace", *command]
        self._listening = listening
        self._count = count
        self._stop = asyncio.Event()
        self._code = 0

    async def run(self, on_ready: Callable[[], None]) -> int:
        """Run them and return the exit code; ``on_ready`` is called once all have become ready."""
        with (
            tempfile.TemporaryDirectory(prefix="tailrace-") as folder,
            on_stop(lambda _: self._stop.set(), is_last=True),
        ):
            async with asyncio.TaskGroup() as tasks:
                for number in range(self._count):
                    ready = asyncio.Event()
                    tasks.create_task(self._keep(str(number), Path(folder), ready.set))
                    if not await self._or_stop(ready.wait()):
                        break
                else:
                    on_ready()
        return self._code

    async def _keep(self, name: str, folder: Path, on_ready: Callable[[], None]) -> None:
        """Keep one process running, whatever befalls it after it was ready for the first time."""
        loop = asyncio.get_running_loop()
        ever_ready, delay = False, RESTART_FIRST_SECONDS
        while not self._stop.is_set():
            since = loop.time()
            child = await _Child.start(self._command, self._listening, name, folder)
            try:
                if await self._or_stop(child.until_ready()):
                    ever_ready = True
                    on_ready()
                await self._or_stop(child.process.wait())
            finally:
                code = await child.end(asked=self._stop.is_set())
            if self._stop.is_set():
                self._code = self._code or max(code, 0)
                return
            if not ever_ready:
                # Why, it has said itself.
                self._code = code if code > 0 else 1
                self._stop.set()
                return
            delay = (
                RESTART_FIRST_SECONDS if loop.time() - since > LASTED_SECONDS else min(delay * 2, RESTART_MAX_SECONDS)
            )
            log.error(
                "process %s (pid %s) ended with exit code %s; another is started in %g s",
                name,
                child.process.pid,
                code,
                delay,
            )
            await self._or_stop(asyncio.sleep(delay, result=True))

    async def _or_stop(self, waited_for: Awaitable[object]) -> bool:
        """Wait, but no longer than until the stop; return whether what was waited for came, and came true."""
        waiting = asyncio.ensure_future(waited_for)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.done() and waiting.result() is not False
        finally:
            waiting.cancel()
            stopping.cancel()


class _Child:
    """One process and our end of the socket pair."""

    def __init__(self, process: asyncio.subprocess.Process, channel: socket.socket) -> None:
        self.process = process
        self._channel = channel

    @classmethod
    async def start(cls, command: Sequence[str], listening: socket.socket, name: str, folder: Path) -> _Child:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            inherited = Inherited(listening.fileno(), theirs.fileno(), name, folder)
            process = await asyncio.create_subprocess_exec(
                *command,
                "--child-of",
                inherited.to_text(),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(listening.fileno(), theirs.fileno()),
                start_new_session=True,  # Ctrl-C reaches the parent alone, which tells its children once.
            )
        return cls(process, ours)

    async def until_ready(self) -> bool:
        """Wait until it says so; return False if it has ended before."""
        return bool(await asyncio.get_running_loop().sock_recv(self._channel, 1))

    async def end(self, *, asked: bool) -> int:
        """Wait for its end, asking it to, and in the end making it; return its exit code, negative for a signal."""
        if asked and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self.process.wait()
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.kill()
        code = await self.process.wait()
        self._channel.close()
        return code
