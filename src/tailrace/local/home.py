"""Where the server's data and socket are, which is not always below the folder the user named.

``control`` is the folder of the clients.  ``home`` is the folder that holds the server's data and its lock: the
same one, unless we are root and the server's account cannot get there because some folder above is closed.  Then
``home`` is a new folder in ``/var/lib/tailrace`` and ``control/data`` a link into it: opening the parents is
not ours to do, and data that moved of itself later would be lost.  Each such folder notes which control folder it
belongs to, so that a copied control folder never leads two servers to the same data.

The socket is in ``home/socket`` if the path fits into a socket's address, else in a new folder in ``/run/user`` or
``/tmp``, to which ``control/socket`` is a link.  Only the server's account (and root) can enter either.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tailrace.errors import LocalPostgresError
from tailrace.local.account import Account, can_reach
from tailrace.local.binaries import make_public_folder
from tailrace.local.endpoint import socket_path
from tailrace.local.plan import Control

STATE = Path("/var/lib/tailrace")
FOLDER_NAME = "pg18"

# The address of a Unix socket has 108 bytes on Linux, 104 on macOS, with the zero at the end.
_SOCKET_PATH_BYTES_MAX = 103
_OWNER_NOTE = "control"


def make_control(data_dir: Path) -> Control:
    """Make the folder in which clients and supervisor meet, or verify that the existing one is ours.

    :raises LocalPostgresError: it belongs to another user.
    """
    folder = data_dir.expanduser().resolve() / FOLDER_NAME
    # With a mode of its own, so that a new folder is never open for a moment; those above it get the usual mode.
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise LocalPostgresError(
            f"{folder} belongs to uid {status.st_uid} and this process runs as uid {os.geteuid()}: run as its owner, "
            "or name another folder in TAILRACE_DATA_DIR"
        )
    if status.st_mode & 0o066:
        folder.chmod(0o700)
    return Control(folder)


def find_home(control: Control) -> Path | None:
    """Find the folder of the server's data, if one was chosen before.

    :raises LocalPostgresError: it is lost, or belongs to another control folder.
    """
    link = control.folder / "data"
    if not link.is_symlink():
        return control.folder if link.is_dir() else None
    home = link.readlink().parent
    try:
        note = (home / _OWNER_NOTE).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise LocalPostgresError(
            f"{link} leads to {home}, where the data should be, but that folder cannot be read ({error}): bring it "
            "back, or remove the link to begin with an empty database"
        ) from error
    owner = Path(note)
    if owner != control.folder:
        if (owner / "data").is_symlink() and (owner / "data").readlink() == link.readlink():
            raise LocalPostgresError(
                f"{control.folder} looks like a copy of {owner}: both lead to the data in {home}, and two servers "
                f"cannot use the same data; remove {link} to begin with an empty database"
            )
        _write_note(home, control)
    return home


def make_home(control: Control, account: Account) -> Path:
    """Choose the folder for new data, and make it."""
    if account.other and not can_reach(account, control.folder.parent):
        make_public_folder(STATE)
        words = re.sub(r"[^A-Za-z0-9]+", "-", control.folder.parent.name).strip("-")[:20]
        home = Path(tempfile.mkdtemp(prefix=f"{words or 'data'}-", dir=STATE))
        _write_note(home, control)
        (control.folder / "data").symlink_to(home / "data")
    else:
        home = control.folder
    return home


def open_home(home: Path, account: Account) -> None:
    """Let the server's account pass through our own folder to its data, and verify that it gets there.

    :raises LocalPostgresError: a folder above, which is not ours to open, is closed to the account.
    """
    if account.other:
        home.chmod(0o711)
        if not can_reach(account, home):
            raise LocalPostgresError(
                f"the embedded Postgres runs as {account.name}, since it refuses to run as root, and {account.name} "
                f"cannot reach its data in {home}: a folder above is closed (chmod o+x), or name another folder in "
                "TAILRACE_DATA_DIR"
            )


def make_socket_dir(control: Control, home: Path, account: Account) -> Path:
    """Make the folder of the socket, or verify that the existing one is safe.

    :raises LocalPostgresError: there is a folder, but others could enter it.
    """
    folder = home / "socket"
    if _fits(folder):
        if folder.is_symlink():
            # The control folder was moved here from a longer path.
            _drop_link(folder, account)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            _give(folder, account)
        if not _is_private(folder, account):
            raise LocalPostgresError(
                f"{folder}, the folder of the server's socket, should belong to {account.name} and be closed to "
                "others; found another owner or mode: remove it"
            )
        return folder
    link = control.folder / "socket"
    if link.is_symlink():
        folder = link.readlink()
        # A cleaner of temporary files may have removed it, and a copied control folder leads to another's.
        if _is_private(folder, account) and _note(folder) == str(control.folder):
            return folder
        _drop_link(link, account)
    elif link.is_dir():
        # The control folder was moved here from a shorter path; nothing but dead sockets is in it.
        shutil.rmtree(link)
    folder = _make_short_folder(account)
    _write_note(folder, control)
    _give(folder, account)
    link.symlink_to(folder)
    return folder


def _drop_link(link: Path, account: Account) -> None:
    """Remove the link, and the folder it leads to unless that is another control folder's."""
    folder = link.readlink()
    link.unlink()
    owner = _note(folder)
    if owner and _is_private(folder, account) and not Path(owner).exists():
        shutil.rmtree(folder, ignore_errors=True)


def _fits(folder: Path) -> bool:
    """Tell whether the folder can be named in a socket's address, in a server's setting and in a client's URL."""
    text = str(folder)
    # Clients and server both take a comma for the end of one path and the beginning of another.
    return len(os.fsencode(socket_path(text))) <= _SOCKET_PATH_BYTES_MAX and text.isprintable() and "," not in text


def _make_short_folder(account: Account) -> Path:
    for parent in _short_parents(account):
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="tailrace-", dir=parent))
            if _fits(folder):
                return folder
            folder.rmdir()
    raise LocalPostgresError(
        "found no folder with a short path for the server's Unix socket (tried /run/user, /run and /tmp): "
        "name a folder with a path under 80 bytes in TAILRACE_DATA_DIR"
    )


def _short_parents(account: Account) -> Iterator[Path]:
    """Give the folders in which nobody else can rename or remove ours: private ones, or sticky ones as /tmp is."""
    runtime = Path(f"/run/user/{os.geteuid()}")
    if not account.other and _is_private(runtime, account):
        yield runtime
    for folder in (Path("/run"), Path("/tmp")):  # noqa: S108 # a new folder of mode 0700 is made in it
        with contextlib.suppress(OSError):
            status = folder.stat()
            if status.st_uid == 0 and (status.st_mode & stat.S_ISVTX or not status.st_mode & 0o022):
                yield folder


def _is_private(folder: Path, account: Account) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and account.owns(status) and not status.st_mode & 0o077


def _give(folder: Path, account: Account) -> None:
    if account.other:
        os.chown(folder, account.uid, account.gid)


def _note(folder: Path) -> str:
    with contextlib.suppress(OSError):
        return (folder / _OWNER_NOTE).read_text(encoding="utf-8", errors="surrogateescape")
    return ""


def _write_note(folder: Path, control: Control) -> None:
    (folder / _OWNER_NOTE).write_text(str(control.folder), encoding="utf-8", errors="surrogateescape")
