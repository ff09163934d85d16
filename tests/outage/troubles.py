"""What may befall a database from outside, each as a context: inside it the trouble lasts, at its end it is mended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg

from tests.outage.cluster import Cluster

ROLE, DATABASE, PASSWORD = "app", "app", "secret"
SCHEMA = "healing"
# Longer than a machine stands still, for a server that was frozen past its lease counts as dead. One trouble is to
# outlast the lease.
LEASE_SECONDS = 120
SHORT_LEASE_SECONDS = 15

Trouble = Callable[[Cluster], AbstractAsyncContextManager[None]]
TROUBLES: dict[str, tuple[Trouble, set[int]]] = {}


def trouble(*answers: int) -> Callable[[Trouble], Trouble]:
    """Register a trouble, during which a start is answered with one of these."""

    def register(made: Trouble) -> Trouble:
        TROUBLES[made.__name__] = (made, set(answers))
        return made

    return register


@trouble(201, 503)
@asynccontextmanager
async def immediate_restart(cluster: Cluster) -> AsyncIterator[None]:
    cluster.restart()
    yield


@trouble(503)
@asynccontextmanager
async def server_away(cluster: Cluster) -> AsyncIterator[None]:
    cluster.stop()
    try:
        yield
    finally:
        cluster.start()


@trouble(503)
@asynccontextmanager
async def server_away_for_longer_than_a_lease(cluster: Cluster) -> AsyncIterator[None]:
    cluster.stop()
    try:
        yield
    finally:
        await asyncio.sleep(SHORT_LEASE_SECONDS + 0.5)
        cluster.start()


@trouble(503)
@asynccontextmanager
async def server_frozen(cluster: Cluster) -> AsyncIterator[None]:
    cluster.freeze()
    try:
        yield
    finally:
        cluster.thaw()


@trouble(201, 503)
@asynccontextmanager
async def all_sessions_terminated_again_and_again(cluster: Cluster) -> AsyncIterator[None]:
    for _ in range(3):
        await cluster.terminate()
    try:
        yield
    finally:
        await cluster.terminate()


@trouble(201, 503)
@asynccontextmanager
async def sessions_terminated_at_random(cluster: Cluster) -> AsyncIterator[None]:
    for _ in range(10):
        await cluster.terminate("random() < 0.5")
    yield


@trouble(201)
@asynccontextmanager
async def listening_session_terminated(cluster: Cluster) -> AsyncIterator[None]:
    await cluster.terminate("query ilike 'listen%' or query = 'select 1'")
    yield


@trouble(503)
@asynccontextmanager
async def server_read_only(cluster: Cluster) -> AsyncIterator[None]:
    await cluster.set(default_transaction_read_only="on")
    try:
        yield
    finally:
        await cluster.set(default_transaction_read_only=None)


@trouble(503)
@asynccontextmanager
async def database_read_only(cluster: Cluster) -> AsyncIterator[None]:
    await cluster.sql(f"alter database {DATABASE} set default_transaction_read_only = on")
    await cluster.terminate()
    try:
        yield
    finally:
        await cluster.sql(f"alter database {DATABASE} reset default_transaction_read_only")
        await cluster.terminate()


@trouble(201, 503)
@asynccontextmanager
async def commits_stalled_by_a_standby_that_is_not_there(cluster: Cluster) -> AsyncIterator[None]:
    await cluster.set(synchronous_standby_names="nobody")
    try:
        yield
    finally:
        await cluster.set(synchronous_standby_names=None)


@trouble(503)
@asynccontextmanager
async def tables_locked_by_another_session(cluster: Cluster) -> AsyncIterator[None]:
    connection = await asyncpg.connect(cluster.url_as("root", cluster.password, DATABASE))
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"lock table {SCHEMA}.runs, {SCHEMA}.run_events, {SCHEMA}.run_outbox in exclusive mode")
    try:
        yield
    finally:
        await transaction.rollback()
        await connection.close()


@trouble(503)
@asynccontextmanager
async def too_many_connections(cluster: Cluster) -> AsyncIterator[None]:
    await cluster.sql(f"alter role {ROLE} connection limit 0")
    await cluster.terminate()
    try:
        yield
    finally:
        await cluster.sql(f"alter role {ROLE} connection limit -1")


@trouble(503)
@asynccontextmanager
async def password_changed(cluster: Cluster) -> AsyncIterator[None]:
    await cluster.sql(f"alter role {ROLE} password 'another'")
    await cluster.terminate()
    try:
        yield
    finally:
        await cluster.sql(f"alter role {ROLE} password '{PASSWORD}'")


@trouble(503)
@asynccontextmanager
async def database_closed_to_all(cluster: Cluster) -> AsyncIterator[None]:
    await cluster.sql(f"alter database {DATABASE} allow_connections false")
    await cluster.terminate()
    try:
        yield
    finally:
        await cluster.sql(f"alter database {DATABASE} allow_connections true")


@trouble(503)
@asynccontextmanager
async def database_gone_until_it_is_restored(cluster: Cluster) -> AsyncIterator[None]:
    await cluster.sql(f"alter database {DATABASE} allow_connections false")
    await cluster.sql(f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{DATABASE}'")
    await cluster.sql(f"alter database {DATABASE} rename to elsewhere")
    try:
        yield
    finally:
        await cluster.sql(f"alter database elsewhere rename to {DATABASE}")
        await cluster.sql(f"alter database {DATABASE} allow_connections true")


@trouble(503)
@asynccontextmanager
async def grants_taken_away(cluster: Cluster) -> AsyncIterator[None]:
    await cluster.sql(f"alter schema {SCHEMA} owner to root", database=DATABASE)
    try:
        yield
    finally:
        await cluster.sql(f"alter schema {SCHEMA} owner to {ROLE}", database=DATABASE)
