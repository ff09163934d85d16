"""A process's share of the embedded server: how it is had, kept and given back.

``start.lock`` is held while one process starts or joins, so within it nothing but the supervisor changes.  A share
is taken before that, and a supervisor that is about to stop keeps the share from being had until it has ended.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import platformdirs

from tailrace.errors import LocalPostgresError
from tailrace.local.account import server_account
from tailrace.local.binaries import binaries_for, major_version
from tailrace.local.cluster import prepare_data
from tailrace.local.endpoint import DATABASE, PORT, ROLE, Endpoint, accepts_connections, read_endpoint
from tailrace.local.home import find_home, make_control, make_home, make_socket_dir, open_home
from tailrace.local.locks import exclusively, is_held, open_lock, pauses, wait_lock
from tailrace.local.plan import Control, Plan

log = logging.getLogger("tailrace.local")

# Recovery after a crash replays what was written since the last checkpoint: a gigabyte at most, some ten seconds.
START_SECONDS_MAX = 60.0
_SPAWNS_MAX = 3
_WATCH_SECONDS = 0.25
_WATCH_SECONDS_AFTER_FAILURE = 5.0
_LOG_BYTES_KEPT = 1024 * 1024
_LOG_LINES_TOLD = 15


def default_data_dir() -> Path:
    """Give the folder that is used when none is named: the user's data folder for ``tailrace``."""
    return Path(platformdirs.user_data_dir("tailrace"))


def start(data_dir: Path | None = None) -> LocalPostgres:
    """Start the embedded server, or join the one that runs.  Blocks: some ms to join, about a second at first.

    :param data_dir: the folder to keep everything in, ``default_data_dir()`` if none is named.
    :returns: a share of the server, which runs for as long as somebody has one.
    :raises LocalPostgresError: there is no server to be had; the text says why and what to do.
    """
    if os.name != "posix":
        raise LocalPostgresError(
            f"the embedded Postgres runs on Linux and macOS, not on {sys.platform}: set TAILRACE_DATABASE_URL"
        )
    folder = data_dir or default_data_dir()
    deadline = time.monotonic() + START_SECONDS_MAX
    try:
        control = make_control(folder)
        share = _take_share(control, deadline)
        try:
            return LocalPostgres(control, share, ensure_running(control, deadline))
        except BaseException:
            os.close(share)
            raise
    except OSError as error:
        raise LocalPostgresError(
            f"tried to start the embedded Postgres in {folder}, but: {error}; name a folder in TAILRACE_DATA_DIR that "
            "this user can write to, or set TAILRACE_DATABASE_URL"
        ) from error


class LocalPostgres:
    """A share of the embedded server.  The server runs until the last share is given back or its holder has died.

    A thread looks after the supervisor and starts a new one should it die.  It is not copied by ``fork``: the child
    has a share too, until it calls ``close`` or ends, but relies on others to look after the supervisor.
    """

    def __init__(self, control: Control, share: int, endpoint: Endpoint) -> None:
        self._control = control
        self._share: int | None = share
        self._socket_dir = endpoint.socket_dir
        self._password = control.password.read_text(encoding="ascii").strip()
        self._closing = threading.Event()
        self._process = os.getpid()
        threading.Thread(target=self._watch, name="tailrace-local-postgres", daemon=True).start()

    @property
    def url(self) -> str:
        """Address of the database, with the password; any client that knows ``host=<socket folder>`` can use it.

        It stays the same over restarts of the server, unless somebody removes the folder of the socket.
        """
        host = quote(self._socket_dir, safe="")
        return f"postgresql://{ROLE}:{self._password}@/{DATABASE}?host={host}&port={PORT}"

    def close(self) -> None:
        """Give the share back.  Connections that are still open break if it was the last one."""
        share, self._share = self._share, None
        if os.getpid() == self._process:
            # A forked child has no thread to tell, and the event's own lock may have been copied while it was held.
            self._closing.set()
        if share is not None:
            # Closed, not unlocked: a forked child keeps its share.
            os.close(share)

    def __enter__(self) -> LocalPostgres:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _watch(self) -> None:
        """Start a new supervisor whenever there is none."""
        pause = _WATCH_SECONDS
        while not self._closing.wait(pause):
            try:
                if not is_held(self._control.supervisor_lock):
                    log.warning("the supervisor of the embedded Postgres has died; starting another")
                    deadline = time.monotonic() + START_SECONDS_MAX
                    self._socket_dir = ensure_running(self._control, deadline, again=True).socket_dir
                pause = _WATCH_SECONDS
            except FileNotFoundError:
                log.error("the folder of the embedded Postgres, %s, was removed", self._control.folder)  # noqa: TRY400 # the text says it all
                return
            except (LocalPostgresError, OSError) as error:
                log.error("the embedded Postgres could not be started again: %s", error)  # noqa: TRY400 # the text says it all
                pause = _WATCH_SECONDS_AFTER_FAILURE


def _take_share(control: Control, deadline: float) -> int:
    share = open_lock(control.clients_lock)
    if not wait_lock(share, "shared", deadline):
        os.close(share)
        raise LocalPostgresError(
            f"waited {START_SECONDS_MAX:.0f} s for the embedded Postgres in {control.folder} to finish stopping; look "
            f"at {control.log}:\n{log_tail(control)}"
        )
    # The mark tells the supervisor of clients that come and go between two of its looks.
    os.utime(share)
    return share


def ensure_running(control: Control, deadline: float, *, again: bool = False) -> Endpoint:
    """Return as soon as the server accepts connections, starting a supervisor if there is none.

    :param again: data is expected to exist, so it is not made anew.
    :raises LocalPostgresError: the server could not be started before ``deadline`` (``time.monotonic()``).
    """
    with exclusively(control.start_lock, deadline):
        spawned = 0
        waits = pauses(deadline)
        while (pause := next(waits, None)) is not None:
            alive = is_held(control.supervisor_lock)
            endpoint = read_endpoint(control.endpoint)
            if alive:
                if endpoint and endpoint.socket_dir and accepts_connections(endpoint.socket_dir):
                    return endpoint
                time.sleep(pause)
                continue
            if spawned == _SPAWNS_MAX or (spawned and endpoint and endpoint.error):
                reason = endpoint.error if endpoint else f"its supervisor died {spawned} times"
                raise LocalPostgresError(
                    f"tried to start the embedded Postgres in {control.folder}, but {reason}; the end of "
                    f"{control.log}:\n{log_tail(control)}"
                )
            control.endpoint.unlink(missing_ok=True)
            _spawn_supervisor(control, _make_plan(control, again=again))
            spawned += 1
            # Making the data was not part of the wait for the server.
            waits = pauses(time.monotonic() + START_SECONDS_MAX)
    raise LocalPostgresError(
        f"the embedded Postgres in {control.folder} runs, but did not accept connections in time; after a crash it "
        f"may have much to recover: try again in a minute; the end of {control.log}:\n{log_tail(control)}"
    )


def _make_plan(control: Control, *, again: bool) -> Plan:
    """Choose account, binaries and folders, and make what does not exist yet."""
    home = find_home(control)
    account = server_account((home or control.folder) / "data")
    binaries = binaries_for(account)
    major = major_version(binaries, account)
    if home is None:
        if again:
            raise FileNotFoundError(control.folder / "data")
        home = make_home(control, account)
    open_home(home, account)
    prepare_data(control, home, binaries, account, major)
    socket_dir = make_socket_dir(control, home, account)
    return Plan(
        control=str(control.folder),
        home=str(home),
        socket_dir=str(socket_dir),
        binaries=str(binaries),
        uid=account.uid,
        gid=account.gid,
    )


def _spawn_supervisor(control: Control, plan: Plan) -> None:
    """Start the supervisor; when this returns it has its lock, or has told the reason in the log."""
    if not sys.executable:
        raise LocalPostgresError(
            "the embedded Postgres needs a Python interpreter to supervise it, and sys.executable is empty: set "
            "TAILRACE_DATABASE_URL"
        )
    _rotate_log(control)
    descriptor = os.open(control.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        subprocess.run(  # noqa: S603 # our own program
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py")), plan.to_json()],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd="/",
            start_new_session=True,
            check=False,
        )
    finally:
        os.close(descriptor)


def _rotate_log(control: Control) -> None:
    if control.log.is_file() and control.log.stat().st_size > _LOG_BYTES_KEPT:
        control.log.replace(control.log.with_name(f"{control.log.name}.1"))


def log_tail(control: Control) -> str:
    """Give the last lines of the log."""
    try:
        lines = control.log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"(it cannot be read: {error})"
    return "\n".join(lines[-_LOG_LINES_TOLD:])
