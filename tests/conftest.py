"""A schema of its own for every test that asks for ``database``, in the database of its test worker."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.events import Events
from tailrace.store.leases import Leases
from tailrace.store.migrate import upgrade
from tailrace.store.outbox import Outbox
from tailrace.store.runs import Runs
from tailrace.telemetry import Happening, Telemetry

_SCHEMAS = itertools.count(1)


@pytest.fixture
async def database(tailrace_database: str) -> AsyncIterator[Database]:
    """A fresh schema, upgraded, and a pool on it."""
    opened = Database(tailrace_database, schema=f"test_{next(_SCHEMAS)}", tx_timeout_ms=5000)
    await opened.open()
    try:
        await upgrade(opened)
        yield opened
        async with opened.connection() as connection:
            await connection.execute(f'drop schema "{opened.schema}" cascade')
    finally:
        await opened.close()


@pytest.fixture
def settings(tailrace_database: str, database: Database) -> Callable[..., Settings]:
    """Make settings that name the test's own schema: ``settings(lease_seconds=1)``."""

    def make(**overrides: Any) -> Settings:
        return Settings(
            **{"database_url": tailrace_database, "db_schema": database.schema, "log_level": "error"} | overrides
        )

    return make


@pytest.fixture
def runs(database: Database) -> Runs:
    return Runs(database)


@pytest.fixture
def events(database: Database) -> Events:
    return Events(database)


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database)


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database)


@pytest.fixture
def happenings() -> list[Happening]:
    """What was told to ``telemetry``."""
    return []


@pytest.fixture
def telemetry(happenings: list[Happening]) -> Telemetry:
    return Telemetry([happenings.append])
