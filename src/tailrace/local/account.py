"""The account of the operating system that runs the server, and what it can reach."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from tailrace.errors import LocalPostgresError

if sys.platform != "win32":
    import pwd

# A dedicated account first; ``nobody`` and ``daemon`` exist nearly everywhere.
_CANDIDATES = ("tailrace", "postgres", "nobody", "daemon")


class AccountArguments(TypedDict, total=False):
    """The arguments of ``subprocess`` that change the user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the server.  ``uid`` and ``gid`` are -1 when that is the user of this process."""

    name: str
    uid: int = -1
    gid: int = -1

    @property
    def other(self) -> bool:
        """Whether the account is not the one of this process."""
        return self.uid >= 0

    def owns(self, status: os.stat_result) -> bool:
        """Tell whether the file is this account's."""
        return status.st_uid == (self.uid if self.other else os.geteuid())


def as_account(uid: int, gid: int) -> AccountArguments:
    """Make the arguments with which ``subprocess`` runs a program as the account."""
    return {"user": uid, "group": gid, "extra_groups": []} if uid >= 0 else {}


def server_account(data: Path) -> Account:
    """Choose the account: ours, or as root the data folder's owner, else the first candidate that exists.

    :raises LocalPostgresError: there is none that Postgres can run as.
    """
    uid = os.geteuid()
    if uid != 0:
        return Account(_entry(uid).pw_name)
    if data.is_dir():
        owner = data.stat().st_uid
        if owner == 0:
            raise LocalPostgresError(
                f"{data} belongs to root, and Postgres refuses to run as root: give the folder and all in it to an "
                "unprivileged account (chown -R postgres), or name another folder in TAILRACE_DATA_DIR"
            )
        entry = _entry(owner)
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise LocalPostgresError(
        f"Postgres refuses to run as root, and none of the accounts {', '.join(_CANDIDATES)} exists: add one, run "
        "Tailrace as an unprivileged user, or set TAILRACE_DATABASE_URL"
    )


def _entry(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise LocalPostgresError(
            f"the embedded Postgres has to run as uid {uid}, which has no entry in /etc/passwd, and Postgres refuses "
            "to run without a user name: add an entry, run as a user that has one, or set TAILRACE_DATABASE_URL"
        ) from None


def can_reach(account: Account, folder: Path) -> bool:
    """Tell by the modes whether the account may pass through the folder and all above it."""
    if not account.other:
        return True
    return all(permits(account, place, stat.S_IXUSR) for place in (folder, *folder.parents))


def permits(account: Account, path: Path, bits: int) -> bool:
    """Tell whether the mode gives the account these bits, written as those of the owner."""
    status = path.stat()
    if status.st_uid == account.uid:
        allowed = status.st_mode
    elif status.st_gid == account.gid:
        allowed = status.st_mode << 3
    else:
        allowed = status.st_mode << 6
    return allowed & bits == bits
