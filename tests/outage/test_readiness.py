"""What ``/readyz`` says of a database that answers and takes no writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2
import pytest

from tailrace.errors import DatabaseReadOnly
from tailrace.settings import Settings
from tailrace.store.database import Database
from tests.outage.cluster import Cluster, running_cluster
from tests.outage_support import served
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS, opened
from tests.write_support import execute, until

MakeSettings = Callable[..., Settings]


async def ready(http: httpx2.AsyncClient, status: int) -> httpx2.Response:
    """Wait until ``/readyz`` is answered so."""

    async def asked() -> httpx2.Response | None:
        answer = await http.get("/readyz")
        return answer if answer.status_code == status else None

    return await until(asked)


@pytest.mark.parametrize("role", ["api", "worker", "outbox"])
async def test_a_process_on_a_read_only_database_is_not_ready_until_it_can_write(
    cluster: Cluster, settings: MakeSettings, role: str
) -> None:
    """Every role writes: 503 with what was found and what to do, and 200 once it is mended; alive all the while."""
    async with (
        served(settings(), role=role) as process,
        httpx2.AsyncClient(base_url=process.address, timeout=PATIENCE_SECONDS) as http,
    ):
        await ready(http, 200)
        await cluster.set(default_transaction_read_only="on")
        try:
            answer = await ready(http, 503)
            assert (await http.get("/healthz")).status_code == 200
        finally:
            await cluster.set(default_transaction_read_only=None)
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) >= 1
        assert "default_transaction_read_only" in answer.json()["detail"]
        assert "switch it off" in answer.json()["detail"]
        await ready(http, 200)


async def test_a_process_is_not_ready_on_a_schema_that_lacks_something_and_ready_on_one_that_has_more(
    database: Database, settings: MakeSettings
) -> None:
    """Behind names the command; ahead is what an upgrade looks like from the processes that are still there."""
    async with (
        served(settings()) as process,
        httpx2.AsyncClient(base_url=process.address, timeout=PATIENCE_SECONDS) as http,
    ):
        assert (await ready(http, 200)).json()["checks"]["schema"] == "ok"
        await execute(database, "insert into tailrace.schema_migrations (version, name) values (9999, 'later')")
        assert (await http.get("/readyz")).json()["checks"]["schema"] == "ahead"
        await execute(database, "delete from tailrace.schema_migrations where version > 1")
        assert "tailrace db upgrade" in (await ready(http, 503)).json()["detail"]


def test_a_standby_is_told_from_a_database_that_was_made_read_only() -> None:
    """A server in recovery, with the tables and all: the advice is to name the primary."""
    with running_cluster() as made:

        async def prepared() -> None:
            async with opened(Database(made.url, schema="tailrace", tx_timeout_ms=PATIENCE_MS), upgraded=True):
                pass

        async def refused() -> None:
            async with opened(Database(made.url, schema="tailrace", tx_timeout_ms=PATIENCE_MS)) as database:
                with pytest.raises(DatabaseReadOnly, match=r"is a standby .*name the primary"):
                    await database.require_writable()

        asyncio.run(prepared())
        made.stop()
        (made.data / "standby.signal").touch()
        made.start()
        asyncio.run(refused())
