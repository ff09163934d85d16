"""Whatever is killed with kill -9: no committed row is lost, no server stays behind, the others get a server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from tailrace.local import start
from tailrace.local.endpoint import socket_path
from tailrace.local.locks import is_held
from tests.local.conftest import Folder
from tests.local.processes import (
    WITHOUT_THE_REST,
    ClientProcess,
    assert_row_kept,
    commit_row,
    connect,
    is_alive,
    query,
    until,
)

SUPERVISOR_WITH_GUARD = f"""{WITHOUT_THE_REST}
import os, signal, subprocess
from pathlib import Path
from tailrace.local.guard import post_guard
from tailrace.local.locks import open_lock, try_lock
ours, server = open_lock(Path(sys.argv[1])), open_lock(Path(sys.argv[2]))
assert try_lock(ours, "exclusive") and try_lock(server, "exclusive")
subprocess.Popen(["sleep", "300"], pass_fds=(server,), stdout=subprocess.DEVNULL)
os.close(server)
post_guard(Path(sys.argv[1]), Path(sys.argv[2]))
print("ready", flush=True)
signal.pause()
"""

MakeClient = Callable[[Folder], ClientProcess]


async def test_a_killed_owner_leaves_no_server(folder: Folder, make_client: MakeClient) -> None:
    """The share is freed with the process, and the last share was the server's reason to run."""
    client = make_client(folder)
    await commit_row(client.url())
    assert folder.servers()
    client.kill()
    folder.await_stopped()
    with start(folder.path) as server:
        await assert_row_kept(server.url)


async def test_a_killed_postmaster_is_started_again(folder: Folder) -> None:
    """Clients reconnect at the same address, even if a busy backend outlives the postmaster."""
    with start(folder.path) as server:
        await commit_row(server.url)
        busy = await connect(server.url)
        endless = asyncio.create_task(busy.fetchval("select count(*) from generate_series(1, 1e12::bigint)"))
        await _until_active(server.url)
        url, supervisor = server.url, folder.supervisor()
        os.kill(folder.postmaster(), signal.SIGKILL)
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await endless
        await assert_row_kept(server.url)
        assert server.url == url
        assert folder.supervisor() == supervisor
        busy.terminate()


async def test_a_killed_supervisor_is_replaced(folder: Folder, make_client: MakeClient) -> None:
    """Every client watches over the supervisor; with several of them there is still one new server."""
    clients = [make_client(folder) for _ in range(2)]
    urls = [client.url() for client in clients]
    with start(folder.path) as server:
        await commit_row(server.url)
        before = folder.supervisor()
        os.kill(before, signal.SIGKILL)
        await asyncio.to_thread(until, lambda: folder.supervisors() - {before}, "there is a new supervisor")
        for url in {server.url, *urls}:
            await assert_row_kept(url)
        assert folder.supervisor() != before
    for client in clients:
        client.kill()
    folder.await_stopped()


async def test_a_supervisor_killed_again_and_again_loses_nothing(folder: Folder) -> None:
    """Also when it dies while it starts the server."""
    with start(folder.path) as server:
        await commit_row(server.url)
        killed: set[int] = set()
        for _ in range(3):
            await asyncio.to_thread(until, lambda: folder.supervisors() - killed, "there is a new supervisor")
            for process in folder.supervisors():
                os.kill(process, signal.SIGKILL)
                killed.add(process)
        await assert_row_kept(server.url)


async def test_owner_and_supervisor_killed_together_leave_no_server(folder: Folder, make_client: MakeClient) -> None:
    """The kernel tells the postmaster that its supervisor has died; nobody else is left to do it."""
    client = make_client(folder)
    await commit_row(client.url())
    client.kill()
    os.kill(folder.supervisor(), signal.SIGKILL)
    folder.await_stopped()
    with start(folder.path) as server:
        await assert_row_kept(server.url)


async def test_an_orphan_that_does_not_end_is_killed(folder: Folder) -> None:
    """A postmaster that is frozen hears no signal but the last."""
    with start(folder.path) as server:
        await commit_row(server.url)
        postmaster, supervisor = folder.postmaster(), folder.supervisor()
        os.kill(postmaster, signal.SIGSTOP)
        os.kill(supervisor, signal.SIGKILL)
        await asyncio.to_thread(until, lambda: folder.supervisors() - {supervisor}, "there is a new supervisor")
        with contextlib.suppress(ProcessLookupError):  # The new supervisor may have ended it by now.
            os.kill(postmaster, signal.SIGCONT)
        await assert_row_kept(server.url)


@pytest.mark.parametrize("phase", ["init-*", "init-*/PG_VERSION", "init-*/pg_hba.conf", "init-*/base/5"])
async def test_a_kill_during_initdb_breaks_nothing(empty_folder: Folder, make_client: MakeClient, phase: str) -> None:
    """The remains are removed, and what was still writing to them is ended first."""
    client = make_client(empty_folder)
    control = empty_folder.control.folder
    # A test that was held up may come when initdb is done: then it is a kill right after it.
    until(lambda: any(control.glob(phase)) or (control / "data").exists(), "initdb is at work")
    client.kill()
    with start(empty_folder.path) as server:
        assert await query(server.url, "select 1") == 1
        assert not list(empty_folder.control.folder.glob("init-*"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"12",
        b"\x00\xff\n",
        b"{own}\n{data}\n1\n5432\n/tmp/nobody\n\n  1  1\nready   \n",
        b"1\n",
        b"99999999999999999999\n",
    ],
    ids=["empty", "truncated", "garbage", "recycled pid", "pid of init", "impossible pid"],
)
async def test_no_pid_file_stops_a_start(folder: Folder, content: bytes) -> None:
    """Neither the server's pid file nor its socket's is believed: only the lock is."""
    with start(folder.path) as server:
        await commit_row(server.url)
    folder.crash()
    data = folder.control.folder / "data"
    content = content.replace(b"{own}", str(os.getpid()).encode()).replace(b"{data}", bytes(data))
    (data / "postmaster.pid").write_bytes(content)
    path = socket_path(str(folder.control.folder / "socket"))
    path.with_name(f"{path.name}.lock").write_bytes(content)
    with start(folder.path) as server:
        await assert_row_kept(server.url)


async def test_a_removed_folder_ends_its_server(folder: Folder) -> None:
    """Nobody could find the server again."""
    with start(folder.path):
        processes = folder.servers() | folder.supervisors()
        folder.remove()
        until(lambda: not any(map(is_alive, processes)), "the server has gone")


def test_the_guard_ends_what_its_supervisor_left_behind(tmp_path: Path) -> None:
    """Where the kernel does not, the guard sends the signal, and not before the supervisor's death."""
    supervisor_lock, server_lock = tmp_path / "supervisor.lock", tmp_path / "server.lock"
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR_WITH_GUARD, supervisor_lock, server_lock],
        stdout=subprocess.PIPE,
    )
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline() == b"ready\n"
    supervisor.stdout.close()
    assert is_held(server_lock)
    supervisor.kill()
    supervisor.wait()
    until(lambda: not is_held(server_lock), "the server has ended")
    until(lambda: not is_held(supervisor_lock), "the guard has ended")


async def _until_active(url: str) -> None:
    others = "select count(*) from pg_stat_activity where query like '%generate_series%' and pid <> pg_backend_pid()"
    while await query(url, f"{others} and state = 'active'") == 0:  # noqa: ASYNC110 # another process is waited for
        await asyncio.sleep(0.01)
