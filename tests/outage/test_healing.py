"""Whatever befalls the database while runs are in progress and followed: afterwards everything goes on by itself.

One server process lives through all of it, but for the outage that is longer than its lease.  Each test starts a run
that goes on for as long as the trouble lasts, follows it by a client that reconnects, and then makes the trouble.
Meanwhile a start is answered 201 or an honest 503, and a stream 200.  Afterwards the start, repeated with its key, has
happened once; and the client has had every event once.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest

import tailrace
from tailrace.model.event import Event
from tailrace.store.database import Database
from tests.outage.cluster import Cluster
from tests.outage.troubles import (
    DATABASE,
    LEASE_SECONDS,
    PASSWORD,
    ROLE,
    SCHEMA,
    SHORT_LEASE_SECONDS,
    TROUBLES,
    server_away_for_longer_than_a_lease,
)
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS, opened
from tests.write_support import until, value, verified_log

AGENTS = Path(__file__).parent / "agents.py"
RUNS = "/api/agents/runs"
LEASES = dict.fromkeys(TROUBLES, LEASE_SECONDS) | {server_away_for_longer_than_a_lease.__name__: SHORT_LEASE_SECONDS}
_KEYS = (f"key-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> str:
    """A database that an ordinary role owns, with Tailrace's tables."""

    async def make() -> str:
        await cluster.sql(f"create role {ROLE} login password '{PASSWORD}'")
        await cluster.sql(f"create database {DATABASE} owner {ROLE}")
        made = Database(cluster.url_as(ROLE, PASSWORD, DATABASE), schema=SCHEMA, tx_timeout_ms=PATIENCE_MS)
        async with opened(made, upgraded=True):
            return made.url

    return asyncio.run(make())


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of ``tailrace serve``, all roles, with leases of ``request.param`` seconds, impatient with Postgres; in the
    end it has no error to report.
    """
    said = tmp_path_factory.mktemp("server") / "stderr"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAILRACE_")} | {
        "TAILRACE_DATABASE_URL": url,
        "TAILRACE_DB_SCHEMA": SCHEMA,
        "TAILRACE_LEASE_SECONDS": str(request.param),
        "TAILRACE_TX_TIMEOUT_MS": "1500",
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
        assert process.wait(PATIENCE_SECONDS) == 0
        assert said.read_text() == ""
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """The schema of the server, for looking."""
    async with opened(Database(url, schema=SCHEMA, tx_timeout_ms=PATIENCE_MS)) as looking:
        yield looking


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


@pytest.mark.parametrize(("name", "server"), LEASES.items(), ids=TROUBLES, indirect=["server"])
async def test_everything_goes_on_by_itself_after(
    name: str, cluster: Cluster, server: str, database: Database, tmp_path: Path
) -> None:
    """Runs, starts and streams, each event once."""
    make, expected = TROUBLES[name]
    enough, key = tmp_path / "enough", next(_KEYS)
    async with tailrace.Client(server) as client, httpx2.AsyncClient(base_url=server, timeout=PATIENCE_SECONDS) as http:
        run = await client.start("ticker", str(enough))
        follower = Follower(client, run.run_id)
        async with asyncio.timeout(3 * PATIENCE_SECONDS):
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
    # The worker has lived through it, so however long it took, nobody counts a death.
    runs = [run.run_id, other]
    assert await value(database, "select max(takeovers) from tailrace.runs where id = any($1::text[])", runs) == 0
