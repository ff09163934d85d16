"""A reader's desk: a folder, a shell and a database of its own, on which the commands of a document are run."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import re
import secrets
import shlex
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest

from tailrace.store.database import Database
from tailrace.testing.servers import with_database
from tests.conftest import LEASE_SECONDS
from tests.docs.page import Page
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS, asked_again, opened
from tests.servers import free_port

# The ports that the documents name.
PORTS = ("8400", "8000")
KEPT = "exported.sh"
# What psql is made to print after each statement.
BETWEEN = "--------"
# What stays in the foreground, and the reader goes on in another terminal.
SERVES = ("tailrace serve", "uvicorn ")

needs_psql = pytest.mark.skipif(shutil.which("psql") is None, reason="there is no psql; .ci/run installs it")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


class Server:
    """A server that a document has started; its standard error goes to ``tailrace.log``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.address = ""

    async def stop(self, how: int = 15) -> None:
        """End it, as SIGTERM does, and wait for that."""
        with suppress(ProcessLookupError):
            self.process.send_signal(how)
        await self.process.wait()


class Desk:
    """Runs what a document says; what one block exports, the next one finds."""

    def __init__(self, folder: Path, url: str, server_url: str) -> None:
        self.folder = folder
        self.url = url
        self.ports = {named: free_port() for named in PORTS}
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith(("TAILRACE_", "PYTEST_"))
        } | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "NO_COLOR": "1",
            "TAILRACE_DATABASE_URL": url,
            # A reader whose machine stood still reads on.
            "TAILRACE_TX_TIMEOUT_MS": str(PATIENCE_MS),
            "TAILRACE_LEASE_SECONDS": str(LEASE_SECONDS),
            "TEST_DATABASE_URL": server_url,
        }
        self._servers: list[Server] = []

    def save(self, name: str, text: str) -> None:
        """Save a file as the reader would."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._here(text), "utf-8")

    async def shell(self, script: str, *, codes: tuple[int, ...] = (0,)) -> str:
        """Run a block by bash and return what it printed; it must end with one of the codes."""
        process = await self._bash(script, asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT)
        async with asyncio.timeout(2 * PATIENCE_SECONDS):
            out = (await process.communicate())[0].decode()
        assert process.returncode in codes, f"{script}\nended with {process.returncode} and said\n{out}"
        assert "Traceback" not in out, out
        return out

    async def until_well(self, script: str, times: int = 1) -> str:
        """Run a block with so many calls of the doctor, to which nothing is wrong, and return what it printed."""

        def is_well(out: str) -> bool:
            return out.count("nothing found") == times

        out = await asked_again(lambda: self.shell(script, codes=(0, 1)), is_well)
        assert is_well(out), out
        return out

    async def serve(self, command: str, **more: str) -> Server:
        """Start a server by its command and return once it accepts connections."""
        named = re.search(r"--port (\d+)", command)
        if named is None:
            command = f"{command} --port {'8400' if '--role' not in command else '0'}"
        with (self.folder / "tailrace.log").open("ab") as log:
            process = await self._bash(f"exec {command}", asyncio.subprocess.PIPE, log, more)
        server = Server(process)
        self._servers.append(server)
        async with asyncio.timeout(2 * PATIENCE_SECONDS):
            if command.startswith("tailrace"):
                assert process.stdout is not None
                line = (await process.stdout.readline()).decode()
                address = re.search(r"http://\S+", line)
                assert address is not None, (line, (self.folder / "tailrace.log").read_text("utf-8"))
                server.address = address[0]
            else:
                port = self.ports[re.search(r"--port (\d+)", command)[1]]  # type: ignore[index] # such servers name it
                server.address = f"http://127.0.0.1:{port}"
                while not _accepts(port):
                    assert process.returncode is None, (self.folder / "tailrace.log").read_text("utf-8")
                    await asyncio.sleep(0.02)
        return server

    async def walk(self, page: Page) -> list[str]:
        """Do what a page says, block after block: save, serve, run; return what the commands printed."""
        said = []
        serving: dict[str, Server] = {}
        for block in page.blocks:
            if block.reason is not None:
                continue
            if block.file is not None:
                self.save(block.file, block.text)
            elif block.language == "sh" and block.text.startswith(SERVES):
                program = block.text.split()[0]
                if program in serving:
                    await serving[program].stop()
                serving[program] = await self.serve(block.text.strip())
            elif block.language == "sh":
                said.append(await self.shell(block.text))
        return said

    async def sql(self, text: str, *, run: str) -> list[list[dict[str, str]]]:
        """Run the statements of a block by psql; return the rows of each."""
        statements = [part for part in text.split(";\n") if part.strip()]
        (self.folder / "statements.sql").write_text(f";\n\\echo {BETWEEN}\n".join([*statements, ""]), "utf-8")
        out = await self.shell(
            f'psql "$(tailrace db url)" -v ON_ERROR_STOP=1 -v run={shlex.quote(run)} -X -q --csv -f statements.sql'
        )
        found = [list(csv.DictReader(io.StringIO(part))) for part in out.split(f"{BETWEEN}\n")][:-1]
        assert len(found) == len(statements)
        return found

    async def execute(self, sql: str, *args: object) -> str:
        """Change the database, as a fault does."""
        connection = await asyncpg.connect(self.url)
        try:
            return await connection.execute(sql, *args)
        finally:
            await connection.close()

    async def value(self, sql: str, *args: object) -> object:
        """Return what the database says."""
        connection = await asyncpg.connect(self.url)
        try:
            found: object = await connection.fetchval(sql, *args)
            return found
        finally:
            await connection.close()

    async def close(self) -> None:
        """End what was started."""
        for server in self._servers:
            await server.stop(9)

    async def _bash(
        self, script: str, out: int, err: int | io.BufferedWriter, more: dict[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        before = f"set -eu\nif [ -f {KEPT} ]; then . ./{KEPT}; fi\n"
        after = "" if script.startswith("exec ") else f"\nexport -p > {KEPT}\n"
        return await asyncio.create_subprocess_exec(
            "bash", "-c", before + self._here(script) + after,
            env=self.env | (more or {}), cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=err,
        )  # fmt: skip

    def _here(self, text: str) -> str:
        for named, port in self.ports.items():
            text = re.sub(rf"(?<=127\.0\.0\.1:){named}\b|(?<=--port ){named}\b", str(port), text)
        return text


@pytest.fixture
async def desk(tailrace_server: str, tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk with a database of its own, with its tables."""
    async with _database(tailrace_server) as url:
        async with opened(Database(url, schema="tailrace", tx_timeout_ms=PATIENCE_MS), upgraded=True):
            pass
        desk = Desk(tmp_path, url, tailrace_server)
        try:
            yield desk
        finally:
            await desk.close()


@pytest.fixture
async def bare_desk(tailrace_server: str, tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk with an empty database."""
    async with _database(tailrace_server) as url:
        desk = Desk(tmp_path, url, tailrace_server)
        try:
            yield desk
        finally:
            await desk.close()


@asynccontextmanager
async def _database(server: str) -> AsyncIterator[str]:
    name = f"tailrace_docs_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f'create database "{name}"')
        yield with_database(server, name)
    finally:
        await connection.execute(f'drop database "{name}" with (force)')
        await connection.close()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
