"""The server process itself: how it is started so that it cannot outlive its supervisor, and stopped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tailrace.errors import LocalPostgresError
from tailrace.local.account import as_account
from tailrace.local.endpoint import PORT, socket_path
from tailrace.local.plan import Plan

# Elsewhere the supervisor posts a guard.
KERNEL_ENDS_ORPHANS = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG = 1

# A fast shutdown writes all that is dirty in memory to the disk; an immediate one leaves it to the next start.
_FAST_SECONDS = 20.0
_IMMEDIATE_SECONDS = 5.0

SERVER_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}


def settings(plan: Plan) -> dict[str, str]:
    """Give the settings that must hold whatever the files in the data folder say."""
    quoted = plan.socket_dir.replace('"', '""')
    return {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_directories": f'"{quoted}"',
        "unix_socket_permissions": "0700",
        "max_connections": "200",
        "shared_buffers": "128MB",
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_destination": "stderr",
        "logging_collector": "off",
        "log_checkpoints": "off",
        "max_wal_senders": "0",
        "max_logical_replication_workers": "0",
        "wal_level": "minimal",
    }


def spawn(plan: Plan, lock: int) -> subprocess.Popen[bytes]:
    """Start the postmaster, which inherits ``lock`` and is told by the kernel when this process dies."""
    command = [str(Path(plan.binaries) / "postgres"), "-D", str(plan.data)]
    for name, value in settings(plan).items():
        command += ["-c", f"{name}={value}"]
    return subprocess.Popen(  # noqa: S603 # our own binary
        command,
        stdin=subprocess.DEVNULL,
        stdout=2,
        stderr=2,
        env=SERVER_ENVIRONMENT,
        cwd="/",
        pass_fds=(lock,),
        preexec_fn=_end_with_parent(),  # noqa: PLW1509 # the supervisor has one thread
        **as_account(plan.uid, plan.gid),
    )


def _end_with_parent() -> Callable[[], None] | None:
    """Make what the child runs before it becomes the server: ask for SIGINT at its parent's death.

    Python runs it after the change of user, which matters because that change would undo it.
    """
    if not KERNEL_ENDS_ORPHANS:
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    supervisor = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
        if os.getppid() != supervisor:
            os._exit(1)

    return ask


def stop(server: subprocess.Popen[bytes], *, immediately: bool = False) -> None:
    """Stop the server: fast, which takes back what is not committed; then immediately; then by force."""
    steps = [(signal.SIGINT, _FAST_SECONDS), (signal.SIGQUIT, _IMMEDIATE_SECONDS), (signal.SIGKILL, None)]
    for number, seconds in steps[1:] if immediately else steps:
        server.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(seconds)
            return


def remove_stale_files(plan: Plan) -> None:
    """Remove the pid files of a server that died.

    The caller holds ``server.lock``, so none of ours runs.  Postgres itself would look whether a process with the
    pid in the file lives, and refuse to start when the number has been given to another program since.

    :raises LocalPostgresError: a server that Tailrace did not start is running on the folder.
    """
    pid_file = plan.data / "postmaster.pid"
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int(pid_file.read_bytes().split(b"\n", 1)[0])
        # A postmaster's working folder is its data folder.
        if Path(f"/proc/{pid}/cwd").samefile(plan.data):
            raise LocalPostgresError(
                f"a Postgres server that Tailrace did not start (process {pid}) is running on {plan.data}: stop it, "
                "or name another folder in TAILRACE_DATA_DIR"
            )
    pid_file.unlink(missing_ok=True)
    path = socket_path(plan.socket_dir)
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
