"""Listing runs, page by page."""

from __future__ import annotations

import asyncio
import base64

import pytest

from tailrace.errors import InvalidInput
from tailrace.model.run import RunRow, RunState
from tailrace.store.database import Database
from tailrace.store.leases import Leases
from tailrace.store.runs import Runs
from tests.write_support import AGENT, claim, execute, fetch, queued


async def pages(
    runs: Runs, limit: int, *, state: RunState | None = None, agent: str | None = None
) -> list[list[RunRow]]:
    found = []
    cursor = None
    while True:
        page, cursor = await runs.list(state=state, agent=agent, limit=limit, cursor=cursor)
        found.append(list(page))
        if cursor is None:
            return found


async def made(database: Database, count: int) -> list[str]:
    """Make runs of two agents and three states, ten at each moment, and return their ids, newest first."""
    await execute(
        database,
        """
        insert into tailrace.runs (id, agent, created_at, state, started_at, finished_at)
        select
            'r' || n, case when n % 3 = 0 then 'a' else 'b' end,
            timestamptz '2026-01-01 00:00:00.123456Z' + n / 10 * interval '1 microsecond',
            case when n % 5 = 0 then 'failed' else 'queued' end, null, case when n % 5 = 0 then now() end
        from generate_series(1, $1::integer) as n
        """,
        count,
    )
    await execute(database, "insert into tailrace.run_outbox (run_id) select id from tailrace.runs")
    rows = await fetch(database, "select id from tailrace.runs order by created_at desc, id desc")
    return [row["id"] for row in rows]


@pytest.mark.parametrize("limit", [1, 7, 50, 249, 250, 251])
async def test_every_run_is_listed_once_newest_first(database: Database, runs: Runs, limit: int) -> None:
    """250 runs, many made in the same microsecond, through pages of any size."""
    expected = await made(database, 250)
    found = await pages(runs, limit)
    assert [run.id for page in found for run in page] == expected
    assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)
    assert found[-1]


@pytest.mark.parametrize("state", [None, RunState.QUEUED, RunState.FAILED, RunState.CANCELLED])
@pytest.mark.parametrize("agent", [None, "a", "b", "nobody"])
async def test_filters_leave_the_order_and_lose_nothing(
    database: Database, runs: Runs, state: RunState | None, agent: str | None
) -> None:
    """Both filters, alone and together, across pages."""
    await made(database, 60)
    everything = (await pages(runs, 1000))[0]
    expected = [run.id for run in everything if state in (None, run.state) and agent in (None, run.agent)]
    assert [run.id for page in await pages(runs, 7, state=state, agent=agent) for run in page] == expected


async def test_runs_that_are_made_meanwhile_do_not_disturb_a_reader(database: Database, runs: Runs) -> None:
    """A cursor is a place, not a count: what is newer than it is neither shown nor shifts what is older."""
    expected = await made(database, 30)
    first, cursor = await runs.list(state=None, agent=None, limit=10, cursor=None)
    await asyncio.gather(*(queued(runs) for _ in range(10)))
    assert cursor is not None
    rest, end = await runs.list(state=None, agent=None, limit=100, cursor=cursor)
    assert end is None
    assert [run.id for run in (*first, *rest)] == expected


async def test_a_list_leaves_input_and_output_out(database: Database, runs: Runs, leases: Leases) -> None:
    """A page of large runs is not a large page."""
    await queued(runs, input_text='"' + "x" * 1000 + '"')
    await claim(leases)
    (run,), _ = await runs.list(state=RunState.STARTED, agent=AGENT, limit=5, cursor=None)
    assert (run.input, run.output) == (None, None)
    assert run.started_at is not None


def cursor_of(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "", "a", "=", "====", "!!!!", "é", "\x00", "\ud800", "a" * 5000, "MTIz", cursor_of("1/"), cursor_of("/r"),
        cursor_of("1"), cursor_of("x/r"), cursor_of("1/-r"), cursor_of("1/r\x00"), cursor_of("9" * 40 + "/r"),
        cursor_of("-" + "9" * 17 + "/r"), cursor_of("9" * 5000 + "/r"), cursor_of("nan/r"), cursor_of("1.5/r"),
        cursor_of("1/é"),
    ],
)  # fmt: skip
async def test_a_cursor_that_no_list_has_returned_is_refused(runs: Runs, cursor: str) -> None:
    """Never an error of the server, whatever somebody makes of it."""
    with pytest.raises(InvalidInput) as refused:
        await runs.list(state=None, agent=None, limit=10, cursor=cursor)
    assert [fault.pointer for fault in refused.value.faults] == ["/cursor"]
