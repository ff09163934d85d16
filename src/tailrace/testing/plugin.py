"""The pytest plugin: a database per test worker, and the three helpers as fixtures.

It costs nothing until a test asks for one of its fixtures.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest

from tailrace.store.database import Database
from tailrace.store.migrate import upgrade
from tailrace.testing import helpers
from tailrace.testing.servers import NoPostgres, no_database_made, postgres_server, with_database

SKIP_OPTION = "--tailrace-skip-database"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag that skips what needs a database."""
    group = parser.getgroup("tailrace")
    group.addoption(SKIP_OPTION, action="store_true", help="skip tests that need Tailrace's test database")


@pytest.fixture(scope="session")
def tailrace_server(pytestconfig: pytest.Config) -> Iterator[str]:
    """URL of a Postgres server: TEST_DATABASE_URL, else one in Docker, else the embedded one."""
    if pytestconfig.getoption(SKIP_OPTION):
        pytest.skip(f"{SKIP_OPTION} was given")
    try:
        with postgres_server() as url:
            yield url
    except NoPostgres as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(scope="session")
def tailrace_database(tailrace_server: str) -> Iterator[str]:
    """URL of a database of this test worker's own, with Tailrace's tables; dropped at the end.

    Meanwhile TAILRACE_DATABASE_URL names it, so that an App, a Client's server and the helpers find it.
    """
    name = f"tailrace_test_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{secrets.token_hex(4)}"
    try:
        asyncio.run(_execute(tailrace_server, f'create database "{name}"'))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        pytest.exit(str(no_database_made(error)), returncode=pytest.ExitCode.USAGE_ERROR)
    url = with_database(tailrace_server, name)
    patch = pytest.MonkeyPatch()
    try:
        asyncio.run(_upgrade(url))
        patch.setenv("TAILRACE_DATABASE_URL", url)
        yield url
    finally:
        patch.undo()
        asyncio.run(_execute(tailrace_server, f'drop database "{name}" with (force)'))


@pytest.fixture
def await_run(tailrace_database: str) -> Callable[..., Any]:  # noqa: ARG001 - names the database
    """Give the helper that waits until a run has ended and is published."""
    return helpers.await_run


@pytest.fixture
def await_outbox_flush(tailrace_database: str) -> Callable[..., Any]:  # noqa: ARG001 - names the database
    """Give the helper that waits until a run is published up to a seq."""
    return helpers.await_outbox_flush


@pytest.fixture
def await_stream_completion() -> Callable[..., Any]:
    """Give the helper that reads a stream to its end and checks its order."""
    return helpers.await_stream_completion


async def _execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def _upgrade(url: str) -> None:
    database = Database(url, schema=os.environ.get("TAILRACE_DB_SCHEMA", "tailrace"), tx_timeout_ms=30_000)
    await database.open()
    try:
        await upgrade(database)
    finally:
        await database.close()
