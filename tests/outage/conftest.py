"""A server for this folder's tests alone, and in it a schema for each test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tailrace.errors import LocalPostgresError
from tailrace.settings import Settings
from tailrace.store.database import Database
from tests.conftest import LEASE_SECONDS, TX_TIMEOUT_MS
from tests.outage.cluster import Cluster, running_cluster
from tests.patience import opened

_SCHEMAS = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    try:
        with running_cluster() as made:
            yield made
    except LocalPostgresError as error:
        pytest.skip(f"these tests need the embedded Postgres's binaries: {error}")


@pytest.fixture
async def database(cluster: Cluster) -> AsyncIterator[Database]:
    """A fresh schema in the cluster, and a pool on it."""
    made = Database(cluster.url, schema=f"outage_{next(_SCHEMAS)}", tx_timeout_ms=TX_TIMEOUT_MS)
    async with opened(made, upgraded=True):
        yield made


@pytest.fixture
def settings(cluster: Cluster, database: Database) -> Callable[..., Settings]:
    """Settings that name the test's own schema in the cluster; statements are bounded as by default."""

    def make(**overrides: Any) -> Settings:
        given: dict[str, Any] = {
            "database_url": cluster.url,
            "db_schema": database.schema,
            "log_level": "error",
            "lease_seconds": LEASE_SECONDS,
        }
        return Settings(**given | overrides)

    return make
