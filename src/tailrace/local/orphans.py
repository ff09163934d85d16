"""What still holds ``server.lock`` after its supervisor or its postmaster has died, and how it is made to go.

The lock is inherited by the postmaster and by everything it starts, so its holders are exactly the processes
that may still write to the data folder.  They are found by their open descriptors, never by a pid in a file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tailrace.errors import LocalPostgresError
from tailrace.local.locks import open_lock, try_lock, wait_lock

# A fast shutdown writes a checkpoint: seconds when much was written, milliseconds as a rule.
_FAST_SECONDS = 10.0
_IMMEDIATE_SECONDS = 3.0
_KILL_SECONDS = 3.0
# Backends leave within milliseconds of the postmaster's death, unless they are in the middle of a computation.
_BEREAVED_SECONDS = 0.3


def take_server_lock(path: Path, *, gracefully: bool = True) -> int:
    """Take ``server.lock``, terminating what holds it: the caller knows that no supervisor owns it.

    :param gracefully: whether the postmaster may still live and deserves a fast shutdown first.
    :returns: the descriptor, to be inherited by the next server.
    :raises LocalPostgresError: the holders survived ``SIGKILL``.
    """
    descriptor = open_lock(path)
    if try_lock(descriptor, "exclusive"):
        return descriptor
    steps = [(signal.SIGQUIT, _IMMEDIATE_SECONDS), (signal.SIGKILL, _KILL_SECONDS)]
    if gracefully:
        _signal_all(_roots(holders(path)), signal.SIGINT)
        first_wait = _FAST_SECONDS
    else:
        first_wait = _BEREAVED_SECONDS
    if wait_lock(descriptor, "exclusive", time.monotonic() + first_wait):
        return descriptor
    for number, seconds in steps:
        _signal_all(holders(path), number)
        if wait_lock(descriptor, "exclusive", time.monotonic() + seconds):
            return descriptor
    os.close(descriptor)
    raise LocalPostgresError(
        f"an earlier embedded Postgres still holds {path} and did not end when killed; found the processes "
        f"{sorted(holders(path)) or '(none that can be seen from here: perhaps it runs in another container)'}: see "
        "what they do, end them and try again"
    )


def holders(path: Path) -> set[int]:
    """Find the processes, other than this one, that have the file open."""
    proc = Path("/proc")
    found = _holders_in_proc(proc, path) if (proc / "self/fd").is_dir() else _holders_by_lsof(path)
    return found - {os.getpid()}


def _holders_in_proc(proc: Path, path: Path) -> set[int]:
    wanted = path.stat()
    found = set()
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        # Processes end while they are looked at, and those of other users may not be looked into.
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.path.samestat(descriptor.stat(), wanted):
                        found.add(int(process.name))
                        break
    return found


def _holders_by_lsof(path: Path) -> set[int]:
    lsof = shutil.which("lsof", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if lsof is None:
        return set()
    answer = subprocess.run([lsof, "-t", "--", str(path)], capture_output=True, text=True, check=False)  # noqa: S603 # fixed program, our path
    return {int(word) for word in answer.stdout.split() if word.isdigit()}


def _roots(processes: set[int]) -> set[int]:
    """Leave out those whose parent is among them: what remains is the postmaster, or its orphaned children."""
    return {process for process in processes if _parent(process) not in processes}


def _parent(process: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The second field is the program's name in brackets and may contain anything.
        return int(
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
        )
    return 0


def _signal_all(processes: set[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)
