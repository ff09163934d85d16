"""File locks between processes (``flock``), which the kernel frees when their holder dies.

A lock belongs to the open file, not to the process: a descriptor that a child inherits keeps it held.  That is
wanted for ``server.lock`` and an accident for the others, because a thread of the host program may fork at any
moment.  So whoever ends a lock early says so with ``unlock``, which frees it for all copies of the descriptor.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tailrace.errors import LocalPostgresError

if sys.platform != "win32":
    import fcntl

LockMode = Literal["shared", "exclusive"]

_POLL_SECONDS_MIN = 0.001
_POLL_SECONDS_MAX = 0.02


def open_lock(path: Path) -> int:
    """Open the lock file, making it if there is none; the descriptor is not inherited by other programs."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def try_lock(descriptor: int, mode: LockMode) -> bool:
    """Take the lock if that is possible at once."""
    operation = fcntl.LOCK_SH if mode == "shared" else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_lock(descriptor: int, mode: LockMode, deadline: float) -> bool:
    """Take the lock, trying until ``deadline`` (``time.monotonic()``); say whether it was had."""
    for pause in pauses(deadline):
        if try_lock(descriptor, mode):
            return True
        time.sleep(pause)
    return try_lock(descriptor, mode)


def unlock(descriptor: int) -> None:
    """Free the lock for every copy of the descriptor."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def is_held(path: Path) -> bool:
    """Tell whether some process holds the lock exclusively."""
    descriptor = open_lock(path)
    try:
        if not try_lock(descriptor, "shared"):
            return True
        # Unlocked by name: a fork at this moment must not leave the lock with the child.
        unlock(descriptor)
        return False
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusively(path: Path, deadline: float) -> Iterator[None]:
    """Hold the lock within the block.

    :raises LocalPostgresError: it was not free before ``deadline``.
    """
    descriptor = open_lock(path)
    try:
        if not wait_lock(descriptor, "exclusive", deadline):
            raise LocalPostgresError(
                f"waited for {path} to be free, but another process has been starting the embedded Postgres all the "
                "time; if it hangs, end it, or set TAILRACE_DATABASE_URL to use another server"
            )
        try:
            yield
        finally:
            unlock(descriptor)
    finally:
        os.close(descriptor)


def pauses(deadline: float) -> Iterator[float]:
    """Give the pauses between attempts, growing from 1 ms to 20 ms, until ``deadline`` has passed."""
    pause = _POLL_SECONDS_MIN
    while time.monotonic() < deadline:
        yield pause
        pause = min(pause * 1.5, _POLL_SECONDS_MAX)
