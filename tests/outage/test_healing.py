"""Whatever befalls the database while runs are in progress and followed: afterwards everything goes on by itself.

One server process lives through all of it.  Each test starts a run that goes on for as long as the trouble lasts,
follows it by a client that reconnects, and then makes the trouble.  Meanwhile a start is answered 201 or an honest 503,
and a stream 200.  Afterwards the start, repeated with its key, has happened once; and the client has had every event
once.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import asyncpg
import httpx2
import pytest

import tailrace
from tailrace.model.event import Event
from tailrace.store.database import Database
from tailrace.store.migrate import upgrade
from tests.outage.cluster import Cluster
from tests.write_support import until, value, verified_log

AGENTS = Path(__file__).parent / "agents.py"
ROLE, DATABASE, PASSWORD = "app", "app", "secret"
SCHEMA = "healing"
LEASE_SECONDS = 2
RUNS = "/api/agents/runs"
_KEYS = (f"key-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> str:
    """A database that an ordinary role owns, with Tailrace's tables."""

    async def make() -> str:
        await cluster.sql(f"create role {ROLE} login password '{PASSWORD}'")
        await cluster.sql(f"create database {DATABASE} owner {ROLE}")
        made = Database(cluster.url_as(ROLE, PASSWORD, DATABASE), schema=SCHEMA, tx_timeout_ms=5000)
        await upgrade(made)
        return made.url

    return asyncio.run(make())


@pytest.fixture(scope="module")
def server(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of ``tailrace serve``, all roles, impatient with Postgres; in the end it has no error to report."""
    said = tmp_path_factory.mktemp("server") / "stderr"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")} | {
        "TAILRACE_DATABASE_URL": url,
        "TAILRACE_DB_SCHEMA": SCHEMA,
        "TAILRACE_LEASE_SECONDS": str(LEASE_SECONDS),
        "TAILRACE_TX_TIMEOUT_MS": "500",
        "TAILRACE_HEARTBEAT_SECONDS": "1",
        "TAILRACE_LOG_LEVEL": "error",
    }
    command = [sys.executable, "-m", "tailrace", "serve", "--app", str(AGENTS), "--port", "0"]
    with said.open("w") as errors:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert said.read_text() == ""
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """The schema of the server, for looking."""
    opened = Database(url, schema=SCHEMA, tx_timeout_ms=5000)
    await opened.open()
    yield opened
    await opened.close()


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
        await asyncio.sleep(LEASE_SECONDS + 0.5)
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


class Follower:
    """A client that follows a run from its start, however often it has to reconnect."""

    def __init__(self, client: tailrace.Client, run_id: str) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._follow(client, run_id))

    async def _follow(self, client: tailrace.Client, run_id: str) -> None:
        async for event in client.stream(run_id):
            self.events.append(event)
            self._news.set()

    async def more(self, count: int) -> None:
        """Wait until so many more events have come."""
        wanted = len(self.events) + count
        while len(self.events) < wanted:
            self._news.clear()
            await self._news.wait()


async def start(http: httpx2.AsyncClient, key: str) -> httpx2.Response:
    return await http.post(RUNS, json={"agent": "echo", "input": key}, headers={"Idempotency-Key": key})


def assert_honest(answer: httpx2.Response, expected: set[int]) -> None:
    assert answer.status_code in expected, answer.text
    if answer.status_code == 503:
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) >= 1
        assert PASSWORD not in answer.text


async def assert_stream_is_answered(http: httpx2.AsyncClient, run_id: str) -> None:
    """200 and ``retry:``, whatever comes after that: any other status would end an EventSource for ever."""
    async with http.stream("GET", f"{RUNS}/{run_id}/stream") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert (await anext(answer.aiter_bytes())).startswith(b"retry: ")


@pytest.mark.parametrize("name", TROUBLES)
async def test_everything_goes_on_by_itself_after(
    name: str, cluster: Cluster, server: str, database: Database, tmp_path: Path
) -> None:
    """Runs, starts and streams, each event once."""
    make, expected = TROUBLES[name]
    enough, key = tmp_path / "enough", next(_KEYS)
    async with tailrace.Client(server) as client, httpx2.AsyncClient(base_url=server, timeout=30) as http:
        run = await client.start("ticker", str(enough))
        follower = Follower(client, run.run_id)
        async with asyncio.timeout(60):
            await follower.more(3)
            async with make(cluster):
                assert_honest(await start(http, key), expected)
                await assert_stream_is_answered(http, run.run_id)

            async def started() -> str | None:
                answer = await start(http, key)
                assert_honest(answer, {200, 201, 503})
                return answer.json()["runId"] if answer.is_success else None

            other = await until(started)
            await follower.more(3)
            enough.touch()
            await follower.task
            echoed = [event async for event in client.stream(other)]
    for run_id, events in ((run.run_id, follower.events), (other, echoed)):
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert events[-1].type == "RunFinished"
        assert len(await verified_log(database, run_id)) == len(events)
    assert await value(database, "select count(*) from tailrace.runs where idempotency_key = $1", key) == 1
