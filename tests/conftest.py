"""A schema of its own for every test that asks for ``database``, in the database of its test worker."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tailrace.bus.local_first import LocalFirst
from tailrace.bus.postgres import PostgresBus
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.doorbell import Doorbell
from tailrace.store.events import Events
from tailrace.store.leases import Leases
from tailrace.store.outbox import Outbox
from tailrace.store.runs import Runs
from tailrace.telemetry import Happening, Telemetry
from tests.patience import PATIENCE_MS, opened

_SCHEMAS = itertools.count(1)
# Far beyond what a statement takes: Postgres may have to wait for the machine's disk, and these tests do for Postgres.
TX_TIMEOUT_MS = PATIENCE_MS
# Nobody loses a lease because the machine stood still: a test that wants one to end ends it, or asks for a short one.
LEASE_SECONDS = 3600
# An example that takes long says something of the machine, and nothing of what it is an example of.
hypothesis_settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("unhurried")


@pytest.fixture
async def database(tailrace_database: str) -> AsyncIterator[Database]:
    """A fresh schema, upgraded, and a pool on it."""
    made = Database(tailrace_database, schema=f"test_{next(_SCHEMAS)}", tx_timeout_ms=TX_TIMEOUT_MS)
    async with opened(made, upgraded=True):
        yield made
        async with made.connection() as connection:
            await connection.execute(f'drop schema "{made.schema}" cascade')


@pytest.fixture
def settings(tailrace_database: str, database: Database) -> Callable[..., Settings]:
    """Make settings that name the test's own schema: ``settings(lease_seconds=1)``."""

    def make(**overrides: Any) -> Settings:
        given: dict[str, Any] = {
            "database_url": tailrace_database,
            "db_schema": database.schema,
            "log_level": "error",
            "lease_seconds": LEASE_SECONDS,
            "tx_timeout_ms": TX_TIMEOUT_MS,
        }
        return Settings(**given | overrides)

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


@pytest.fixture
def bus(database: Database) -> LocalFirst:
    """The bus as the process of the outbox has it; the processes of streams hear it through Postgres."""
    return LocalFirst(PostgresBus(Doorbell(database, Telemetry())))
