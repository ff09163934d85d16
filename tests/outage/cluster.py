"""A Postgres of the test's own, which it may stop, freeze, fill and misconfigure."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from tailrace.local.account import as_account, server_account
from tailrace.local.binaries import binaries_for
from tailrace.local.postmaster import SERVER_ENVIRONMENT, _end_with_parent
from tests.patience import PATIENCE_SECONDS
from tests.servers import free_port

SETTINGS = {
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "superuser_reserved_connections": "3",
    "wal_level": "replica",
    "max_wal_senders": "2",
    # It survives the death of its processes as with fsync; only a power cut would show the difference.
    "fsync": "off",
    "logging_collector": "off",
}


class Cluster:
    """One server.  ``url`` names it as superuser, with the database in which every test has a schema of its own."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.data = folder / "data"
        self.password = secrets.token_urlsafe(16)
        self._account = server_account(self.data)
        self._binaries = binaries_for(self._account)
        self._settings = SETTINGS | settings
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        # Not in the folder: a full disk must not keep the server from saying so.
        self.log = Path(tempfile.mkdtemp(prefix="tailrace-outage-log-")) / "log"
        if self._account.other:
            os.chown(folder, self._account.uid, self._account.gid)
        password = folder / "password"
        password.write_text(self.password)
        password.chmod(0o644)
        locale = ["--encoding=UTF8", "--locale=C"]
        arguments = ["-D", self.data, "-U", "root", "-A", "scram-sha-256", "--pwfile", password, "--no-sync", *locale]
        self._run("initdb", *arguments)

    @property
    def url(self) -> str:
        return self.url_as("root", self.password)

    def url_as(self, role: str, password: str, database: str = "postgres") -> str:
        return f"postgresql://{role}:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and return once it accepts connections."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        command = [str(self._binaries / "postgres"), "-D", str(self.data), "-c", f"port={self.port}"]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=SERVER_ENVIRONMENT,
                start_new_session=True,
                preexec_fn=_end_with_parent(),  # noqa: PLW1509 - called from the main thread alone
                **as_account(self._account.uid, self._account.gid),
            )
        ready = self.data / "postmaster.pid"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not ready.exists() or "ready" not in ready.read_text():
            assert self._process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.005)

    def stop(self) -> None:
        """Stop it as a crash would: nobody is told, nothing is tidied."""
        assert self._process is not None
        if self._process.poll() is None:
            self.thaw()
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(PATIENCE_SECONDS)

    def ensure_running(self) -> None:
        """Start it if it has given up by itself, as a supervisor does."""
        assert self._process is not None
        if self._process.poll() is not None:
            self.start()

    def freeze(self) -> None:
        """Stop all its processes where they are; connections stay open, and nobody answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        parent = self._process.pid
        # The parent first: what it forks after this looked would be missed.
        os.kill(parent, number)
        # Each backend leads a process group of its own.
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):  # It may end meanwhile, as a worker of autovacuum does.
                os.kill(int(child), number)

    def restart(self) -> None:
        self.stop()
        self.start()

    async def sql(self, statement: str, *, database: str = "postgres") -> None:
        """Execute a statement as superuser, on a connection of its own, as often as it takes to get through."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                connection = await asyncpg.connect(self.url_as("root", self.password, database))
                break
            except (OSError, asyncpg.PostgresError):
                assert time.monotonic() < deadline
        try:
            # What a test has just forbidden everybody else does not hold for the test.
            await connection.execute("set default_transaction_read_only = off; set synchronous_commit = local")
            await connection.execute(statement)
        finally:
            await connection.close()

    async def set(self, **settings: str | None) -> None:
        """Change settings of the server in force for everybody, None for their defaults."""
        for name, value in settings.items():
            await self.sql(f"alter system reset {name}" if value is None else f"alter system set {name} = '{value}'")
        await self.sql("select pg_reload_conf()")
        for name, value in settings.items():
            if value is not None:
                await self._until_set(name, value)

    async def _until_set(self, name: str, value: str) -> None:
        """Wait until the server has read it; sessions that are there have been told by then, before new ones see it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            connection = await asyncpg.connect(self.url)
            try:
                if await connection.fetchval("select current_setting($1)", name) == value:
                    return
            finally:
                await connection.close()
            assert time.monotonic() < deadline, f"{name} was not set"

    async def terminate(self, condition: str = "true") -> None:
        """Terminate the sessions of Tailrace for which the condition on pg_stat_activity holds."""
        await self.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            f" where application_name = 'tailrace' and pid <> pg_backend_pid() and ({condition})"
        )

    def _run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [str(self._binaries / program), *map(str, arguments)],
            cwd="/",
            env=SERVER_ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            **as_account(self._account.uid, self._account.gid),
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def running_cluster(folder: Path | None = None, **settings: str) -> Iterator[Cluster]:
    """A cluster in a folder that its account can reach, gone at the end of the block."""
    made = Path(tempfile.mkdtemp(prefix="tailrace-outage-", dir="/tmp")) if folder is None else folder
    try:
        cluster = Cluster(made, **settings)
        try:
            cluster.start()
            yield cluster
        finally:
            with contextlib.suppress(AssertionError):
                cluster.stop()
            shutil.rmtree(cluster.log.parent, ignore_errors=True)
    finally:
        if folder is None:
            shutil.rmtree(made, ignore_errors=True)
