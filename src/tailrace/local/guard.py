"""Stops the server when its supervisor has died, where the kernel cannot be asked to (it can on Linux).

The guard is a child of the supervisor that waits for the end of a pipe whose other side only the supervisor has.
It acts under ``supervisor.lock``, so it never touches the server of the next supervisor.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from tailrace.errors import LocalPostgresError
from tailrace.local.locks import open_lock, wait_lock
from tailrace.local.orphans import take_server_lock

# The supervisor opens about ten.
_DESCRIPTORS_MAX = 256
_LOCK_SECONDS = 1.0


def post_guard(supervisor_lock: Path, server_lock: Path) -> None:
    """Fork the guard.  The caller has one thread, and never closes its side of the pipe."""
    reader, _writer = os.pipe()
    if os.fork() != 0:
        os.close(reader)
        return
    try:
        # What it has inherited are the supervisor's locks among others, which would outlive the supervisor with it.
        os.closerange(3, reader)
        os.closerange(reader + 1, _DESCRIPTORS_MAX)
        os.read(reader, 1)
        # The kernel may close the pipe a moment before it frees the lock.  A new supervisor may be quicker: fine.
        if wait_lock(open_lock(supervisor_lock), "exclusive", time.monotonic() + _LOCK_SECONDS):
            with contextlib.suppress(LocalPostgresError):
                take_server_lock(server_lock)
    finally:
        os._exit(0)
