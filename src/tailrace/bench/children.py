"""Processes of a measurement: started, ended with it whatever happens, and asked what they cost.

Linux alone tells another process's CPU and memory, in ``/proc``; elsewhere those figures are left out.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

from tailrace.errors import TailraceError

STOP_SECONDS = 5.0
# What may be added to the length of a measurement before it counts as hanging.
PATIENCE_SECONDS = 90.0
_PR_SET_PDEATHSIG = 1
_TICKS = os.sysconf("SC_CLK_TCK")
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class BenchError(TailraceError):
    """A part of a measurement did not do what it should; the text says which, and what it said."""


@asynccontextmanager
async def child(
    command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, folder: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program inside the block, with pipes for its stdin and stdout; what it says on stderr goes to a file.

    It is asked to end at the end of the block, then killed; it also ends when this process is killed.
    """
    errors = folder / "child.err"
    with errors.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=dict(environment) if environment is not None else None,
            cwd=folder,
            preexec_fn=_die_with_parent,
            limit=2**22,
        )
    try:
        yield process
    finally:
        await _end(process)


async def line(process: asyncio.subprocess.Process, folder: Path, *, seconds: float = PATIENCE_SECONDS) -> str:
    """Return the next line of a child's stdout; raise ``BenchError`` with what it said when there is none in time."""
    assert process.stdout is not None  # noqa: S101 - `child` gives every one a pipe
    try:
        async with asyncio.timeout(seconds):
            text = await process.stdout.readline()
    except TimeoutError:
        text = b""
    if not text:
        said = (folder / "child.err").read_text("utf-8", "replace")[-2000:]
        raise BenchError(f"a process of the measurement gave nothing within {seconds:g} s or ended: {said or 'silent'}")
    return text.decode().rstrip("\n")


def cpu_seconds(pids: Iterable[int]) -> float | None:
    """Return the CPU time, user and system, that these processes have taken so far; None where it cannot be had."""
    total = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
        except OSError:
            return None
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def resident_bytes(pid: int, *, peak: bool = False) -> int | None:
    """Return the memory that a process holds, or the most that it held since ``forget_peak``; None as above."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
            if entry.startswith("VmHWM:" if peak else "VmRSS:"):
                return int(entry.split()[1]) * 1024
    return None


def forget_peak(pid: int) -> None:
    """Let the peak of a process's memory begin anew."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")


class PostgresCpu:
    """The CPU of a Postgres server on this machine, all its processes together; None where it is elsewhere."""

    def __init__(self, postmaster: int | None) -> None:
        self._postmaster = postmaster

    @classmethod
    async def find(cls, url: str) -> PostgresCpu:
        """Find the server behind a URL among this machine's processes."""
        connection = await asyncpg.connect(url)
        try:
            backend = await connection.fetchval("select pg_backend_pid()")
            return cls(_parent_if_postgres(backend))
        finally:
            await connection.close()

    def seconds(self) -> float | None:
        """Return what all processes of the server have taken so far, those that have ended too."""
        if self._postmaster is None:
            return None
        with suppress(OSError):
            ended = Path(f"/proc/{self._postmaster}/stat").read_text("ascii").rpartition(")")[2].split()
            children = Path(f"/proc/{self._postmaster}/task/{self._postmaster}/children").read_text("ascii").split()
            living = (cpu_seconds([int(pid)]) or 0.0 for pid in children)
            return (int(ended[13]) + int(ended[14])) / _TICKS + (cpu_seconds([self._postmaster]) or 0.0) + sum(living)
        return None


def _parent_if_postgres(backend: int) -> int | None:
    # A pid of another machine may be anybody's here.
    with suppress(OSError):
        name, _, rest = Path(f"/proc/{backend}/stat").read_text("ascii").partition("(")[2].rpartition(")")
        if name.startswith("postgres"):
            return int(rest.split()[1])
    return None


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError) as error:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, asyncio.CancelledError):
            raise  # Whoever interrupts the measurement means all of it, not this process alone.


def _die_with_parent() -> None:
    # A bench that is killed must leave no server behind that goes on loading the machine.
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
