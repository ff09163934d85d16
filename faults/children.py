"""Child processes that cannot outlive the campaign, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from tailrace.local.account import as_account

_PR_SET_PDEATHSIG = 1


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: IO[bytes],
    folder: Path,
    at_our_death: signal.Signals = signal.SIGKILL,
    uid: int = -1,
    gid: int = -1,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, so that Ctrl-C reaches the campaign alone, which then ends it.

    Where the kernel can do it, the program is sent ``at_our_death`` when this process dies without a word.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=dict(environment),
        cwd=folder,
        start_new_session=True,
        preexec_fn=_ask_for(at_our_death),  # noqa: PLW1509 - the campaign spawns from its only thread
        **as_account(uid, gid),
    )


def free_port() -> int:
    """Return a TCP port of the loopback that is free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ask_for(number: signal.Signals) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask
