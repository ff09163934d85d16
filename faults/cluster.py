"""A Postgres cluster of the campaign's own, on TCP, that can be crashed and started again.

The embedded server of ``tailrace.local`` listens on no port and is started again by its supervisor; a campaign wants
neither.  The binaries are the same.  Tables lie in a tablespace of their own where a small disk can be mounted, so
that it can be filled while the write-ahead log goes on.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
from pathlib import Path

import asyncpg

from faults.children import free_port, spawn
from tailrace.local.account import Account, as_account
from tailrace.local.binaries import binaries_for
from tailrace.local.postmaster import SERVER_ENVIRONMENT

DATABASE = "faults"
START_SECONDS = 30.0
# Six processes with pools of 16 and a LISTEN connection each, and room for connections that are going away.
MAX_CONNECTIONS = 200


class Cluster:
    """One server; ``folder`` belongs to the account that runs it, and ``tables`` too if it is given."""

    def __init__(self, folder: Path, account: Account, tables: Path | None) -> None:
        self.port = free_port()
        self.log = folder / "postgres.log"
        self._folder = folder
        self._account = account
        self._tables = tables
        self._binaries = binaries_for(account)
        self._password = secrets.token_hex(16)
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The postmaster's process id; 0 when there is none."""
        return self._server.pid if self._server is not None else 0

    @property
    def running(self) -> bool:
        """Whether the postmaster lives."""
        return self._server is not None and self._server.poll() is None

    def url(self, port: int | None = None, database: str = DATABASE) -> str:
        """Return the URL of a database, through another port if one is given."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{port or self.port}/{database}?sslmode=disable"

    async def create(self) -> None:
        """Make the cluster, start it, and create the database."""
        secret = self._folder / "password"
        secret.write_text(self._password)
        secret.chmod(0o644)  # the folder around it lets nobody else in
        locale = ["--encoding=UTF8", "--locale=C"]
        subprocess.run(
            [str(self._binaries / "initdb"), "-D", str(self._data), "-U", "postgres", "-A", "scram-sha-256",
             f"--pwfile={secret}", *locale, "--no-sync", "--no-instructions"],
            check=True, capture_output=True, cwd="/", env=SERVER_ENVIRONMENT,
            **as_account(self._account.uid, self._account.gid),
        )  # fmt: skip
        await self.start()
        connection = await asyncpg.connect(self.url(database="postgres"))
        try:
            if self._tables is not None:
                await connection.execute(f"create tablespace small location '{self._tables}'")
            await connection.execute(f"create database {DATABASE}{' tablespace small' if self._tables else ''}")
        finally:
            await connection.close()

    async def start(self) -> None:
        """Start the postmaster and return once it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(MAX_CONNECTIONS),
            "timezone": "UTC",
            "log_line_prefix": "%m [%p] ",
            "log_min_messages": "warning",
            "log_min_error_statement": "panic",
        }
        command = [str(self._binaries / "postgres"), "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self._server = spawn(
                command, environment=SERVER_ENVIRONMENT, log=log, folder=Path("/"), at_our_death=signal.SIGQUIT,
                uid=self._account.uid, gid=self._account.gid,
            )  # fmt: skip
        async with asyncio.timeout(START_SECONDS):
            while not await self._answers():
                if not self.running:
                    raise RuntimeError(f"postgres ended at its start:\n{self.log.read_text()[-2000:]}")
                await asyncio.sleep(0.02)

    async def crash(self) -> None:
        """Stop as ``pg_ctl stop -m immediate`` does: no checkpoint, recovery at the next start."""
        assert self._server is not None
        self._server.send_signal(signal.SIGQUIT)
        await asyncio.to_thread(self._server.wait, START_SECONDS)

    def close(self) -> None:
        """End the server at once; its data is not needed any more."""
        if self._server is None or self._server.poll() is not None:
            return
        self._server.send_signal(signal.SIGQUIT)
        try:
            self._server.wait(5)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def logged(self, text: str) -> int:
        """Return how often the server's log has said ``text``."""
        return self.log.read_text(errors="replace").count(text) if self.log.exists() else 0

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url(database="postgres"), timeout=2)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close()
        return True


def give_to(account: Account, folder: Path) -> None:
    """Let the account own a folder."""
    if account.other:
        os.chown(folder, account.uid, account.gid)
