"""Requests that are turned away are counted by reason, and strangers cannot fill the log with them."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable
from contextlib import AsyncExitStack

import httpx2
import pytest

from tailrace.access.principal import Scope
from tailrace.exporters.logs import REFUSED_LINE_SECONDS, LogExporter
from tailrace.settings import Settings
from tailrace.store.runs import Runs
from tailrace.telemetry import REFUSAL_REASONS, RequestRefused
from tests.outage_support import served
from tests.patience import PATIENCE_SECONDS
from tests.read_support import RUNS, Reading
from tests.security.conftest import Keys
from tests.write_support import queued, until


def refused(metrics: str) -> dict[str, int]:
    """Return how many were refused for each reason, without those that never happened."""
    found = re.findall(r'^tailrace_requests_refused_total\{reason="([a-z-]+)"\} ([0-9.]+)$', metrics, re.MULTILINE)
    assert {reason for reason, _ in found} == set(REFUSAL_REASONS)
    return {reason: int(float(count)) for reason, count in found if float(count)}


async def test_keys_that_do_not_count_are_counted(server: Reading, keys: Keys, acme: str) -> None:
    """401, 403 and 400, each under its reason; a good key and a bad request are no refusals."""
    operator = keys.make("acme", Scope.ADMIN)
    server.services.credentials._look_at = 0  # type: ignore[attr-defined]
    async with keys.client(server, acme) as http:
        assert (await http.get(RUNS, headers={"Authorization": "Bearer x"})).status_code == 401
        assert (await http.get(f"{RUNS}/r/stream?token=x", headers={"Authorization": ""})).status_code == 401
        assert (await http.get("/metrics")).status_code == 403
        assert (await http.get(f"{RUNS}?key={acme}")).status_code == 400
        assert (await http.get(RUNS)).status_code == 200
        assert (await http.get(f"{RUNS}/nowhere")).status_code == 404
    async with keys.client(server, operator) as http:
        found = refused((await http.get("/metrics")).text)
    assert found == {"not-authenticated": 2, "scope-missing": 1, "key-misplaced": 1}


async def test_a_server_without_keys_counts_whom_it_turns_away(settings: Callable[..., Settings], runs: Runs) -> None:
    """Other hosts, pages of other sites, streams and connections beyond the bound: at a process of its own."""
    run_id = await queued(runs)
    stream = f"{RUNS}/{run_id}/stream"
    async with (
        served(settings(), role="api", TAILRACE_MAX_STREAMS="1", TAILRACE_MAX_CONNECTIONS="20") as process,
        httpx2.AsyncClient(base_url=process.address, timeout=PATIENCE_SECONDS) as http,
        AsyncExitStack() as stack,
    ):
        for _ in range(3):
            assert (await http.get("/healthz", headers={"Host": "tailrace.example"})).status_code == 421
        assert (await http.post(RUNS, json={}, headers={"Origin": "https://evil.example"})).status_code == 403
        first = await stack.enter_async_context(http.stream("GET", stream))
        reading = first.aiter_bytes()
        await anext(reading)
        assert (await http.get(stream)).text.startswith("retry: ")
        assert refused((await http.get("/metrics")).text) == {
            "foreign-host": 3,
            "cross-site": 1,
            "too-many-streams": 1,
        }
        crowd = [await asyncio.open_connection("127.0.0.1", process.port) for _ in range(30)]

        async def some_were_closed() -> bool | None:
            return True if any(reader.at_eof() for reader, _ in crowd) else None

        await until(some_were_closed)
        for _, writer in crowd:
            writer.transport.abort()

        async def asked() -> str | None:
            try:
                return (await http.get("/metrics")).text
            except httpx2.HTTPError:  # Until it has noticed that they are gone there may be no room for another.
                return None

        counted = refused(await until(asked))["too-many-connections"]
    assert 1 <= counted <= 30


@pytest.mark.parametrize("reason", REFUSAL_REASONS)
def test_a_flood_of_refusals_writes_one_line_in_a_while(reason: str) -> None:
    """The first at once, then the number of those since, once in so long; each reason by itself."""
    lines, now = io.StringIO(), 0.0
    logs = LogExporter(level="info", log_events=False, stream=lines, clock=lambda: now)
    for _ in range(1000):
        logs(RequestRefused(reason))  # type: ignore[arg-type]
    now = REFUSED_LINE_SECONDS
    logs(RequestRefused(reason))  # type: ignore[arg-type]
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(line["event"], line["level"], line["reason"], line["count"]) for line in said] == [
        ("request.refused", "warning", reason, 1),
        ("request.refused", "warning", reason, 1000),
    ]
