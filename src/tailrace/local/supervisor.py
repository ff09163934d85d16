"""Runs one postmaster for as long as clients want it.  Uses the standard library alone (see ``launch``).

States, and what leads from one to the next::

    starting ──accepts connections──▶ ready ──nobody for a second, or SIGTERM──▶ stopping ──▶ end
        ▲                               │
        └──────── it died ◀─────────────┘        dies five times before it is ready: the reason is written, end

The supervisor takes ``clients.lock`` exclusively before it stops for want of clients, and keeps it until it has
ended: a client that comes in the meantime waits, and then finds no supervisor and starts one.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Literal, NoReturn

from tailrace.errors import LocalPostgresError
from tailrace.local.endpoint import Endpoint, accepts_connections, write_endpoint
from tailrace.local.guard import post_guard
from tailrace.local.locks import open_lock, try_lock, unlock, wait_lock
from tailrace.local.orphans import take_server_lock
from tailrace.local.plan import Control, Plan
from tailrace.local.postmaster import KERNEL_ENDS_ORPHANS, remove_stale_files, spawn, stop

# Commands that follow one another within this time use the same warm server.
GRACE_SECONDS = 1.0
_POLL_SECONDS = 0.2
_POLL_SECONDS_STARTING = 0.004
_FAILED_STARTS_MAX = 5
_RETRY_SECONDS = 0.05
_LOCK_SECONDS = 5.0
_LOG_BYTES_MAX = 16 * 1024 * 1024

Outcome = Literal["died before it was ready", "died", "unused", "told to stop", "folder removed"]


def main(plan_json: str) -> NoReturn:
    """Become the supervisor: lock, leave the caller's process tree, run.

    The first process ends as soon as the lock is held by its child, so that the caller knows by its end that a
    supervisor lives, and never has to reap one.
    """
    plan = Plan.from_json(plan_json)
    control = Control(Path(plan.control))
    lock = open_lock(control.supervisor_lock)
    if not wait_lock(lock, "exclusive", time.monotonic() + _LOCK_SECONDS):
        sys.exit(f"another supervisor holds {control.supervisor_lock}")
    if os.fork() != 0:
        os._exit(0)
    code = 1
    try:
        if not KERNEL_ENDS_ORPHANS:
            post_guard(control.supervisor_lock, plan.server_lock)
        Supervisor(plan, control).run()
        code = 0
    except LocalPostgresError as error:
        _give_up(control, str(error))
    except BaseException:  # noqa: BLE001 # whatever it was, the waiting client must be told
        _give_up(control, traceback.format_exc())
    os._exit(code)


def _give_up(control: Control, reason: str) -> None:
    say(reason)
    with contextlib.suppress(OSError):
        write_endpoint(control.endpoint, Endpoint(error=reason))


def say(text: str) -> None:
    """Write a line to the log, which is this process's standard error."""
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    sys.stderr.write(f"{now} UTC [{os.getpid()}] supervisor: {text}\n")
    sys.stderr.flush()


class Supervisor:
    """Owns the postmaster and the locks that say so."""

    def __init__(self, plan: Plan, control: Control) -> None:
        self._plan = plan
        self._control = control
        self._clients = open_lock(control.clients_lock)
        self._told_to_stop = False
        self._unused_since: float | None = None
        self._last_joined = 0.0
        self._wake = self._listen_to_signals()

    def run(self) -> None:
        """Run the server until nobody wants it.

        :raises LocalPostgresError: it cannot be started.
        """
        failed_starts = 0
        gracefully = True
        while True:
            lock = take_server_lock(self._plan.server_lock, gracefully=gracefully)
            try:
                remove_stale_files(self._plan)
                server = spawn(self._plan, lock)
            finally:
                # Only the server's copy remains, so the lock is free exactly when the server has gone.
                os.close(lock)
            outcome = self._watch(server)
            self._control.endpoint.unlink(missing_ok=True)
            if outcome in ("unused", "told to stop", "folder removed"):
                stop(server, immediately=outcome == "folder removed")
                return
            gracefully = False
            failed_starts = failed_starts + 1 if outcome == "died before it was ready" else 0
            say(f"the server {outcome} (exit code {server.returncode})")
            if failed_starts == _FAILED_STARTS_MAX:
                raise LocalPostgresError(
                    f"the server ended {failed_starts} times before it accepted connections, at last with exit code "
                    f"{server.returncode}"
                )
            time.sleep(_RETRY_SECONDS * 2**failed_starts if failed_starts else 0)

    def _watch(self, server: subprocess.Popen[bytes]) -> Outcome:
        """Wait for something to happen to the server or its clients; tell the clients when it is ready."""
        ready = False
        while True:
            select.select([self._wake], [], [], _POLL_SECONDS if ready else _POLL_SECONDS_STARTING)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
            if server.poll() is not None:
                return "died" if ready else "died before it was ready"
            if self._told_to_stop:
                return "told to stop"
            if self._folder_removed():
                return "folder removed"
            if self._unused():
                return "unused"
            if not ready and accepts_connections(self._plan.socket_dir):
                ready = True
                write_endpoint(self._control.endpoint, Endpoint(socket_dir=self._plan.socket_dir))
            self._bound_log()

    def _unused(self) -> bool:
        """Tell whether nobody has used the server for the grace time; if so, ``clients.lock`` is held from here on."""
        if not try_lock(self._clients, "exclusive"):
            self._unused_since = None
            return False
        now = time.monotonic()
        # A client that came and went between two looks has left its mark on the file.
        joined = os.fstat(self._clients).st_mtime
        if self._unused_since is None or joined != self._last_joined:
            self._unused_since = now
            self._last_joined = joined
        if now - self._unused_since >= GRACE_SECONDS:
            return True
        unlock(self._clients)
        return False

    def _folder_removed(self) -> bool:
        """Tell whether the folder is gone or another one is in its place: then no client can find this server."""
        try:
            return not os.path.samestat(self._control.clients_lock.stat(), os.fstat(self._clients))
        except FileNotFoundError:
            return True

    def _bound_log(self) -> None:
        """Empty the log when it is too long; server and supervisor append, so they go on at its new end."""
        if os.fstat(2).st_size > _LOG_BYTES_MAX:
            os.ftruncate(2, 0)
            say(f"the log had grown beyond {_LOG_BYTES_MAX} bytes and was emptied")

    def _listen_to_signals(self) -> int:
        """Make signals wake the loop, and undo what was inherited from the host program."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, self._tell_to_stop)
        signal.signal(signal.SIGTERM, self._tell_to_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        return reader

    def _tell_to_stop(self, *_: object) -> None:
        self._told_to_stop = True
