"""A server for this folder's tests alone, and in it a schema for each test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tailrace.errors import LocalPostgresError
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.migrate import upgrade
from tests.outage.cluster import Cluster, running_cluster

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
    opened = Database(cluster.url, schema=f"outage_{next(_SCHEMAS)}", tx_timeout_ms=5000)
    await opened.open()
    try:
        await upgrade(opened)
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def settings(cluster: Cluster, database: Database) -> Callable[..., Settings]:
    """Settings that name the test's own schema in the cluster."""

    def make(**overrides: Any) -> Settings:
        given = {"database_url": cluster.url, "db_schema": database.schema, "log_level": "error"}
        return Settings(**given | overrides)

    return make
