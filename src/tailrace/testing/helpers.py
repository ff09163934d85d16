"""Waiting for what Tailrace does, on the database that the settings name, instead of sleeping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import TypeVar

from tailrace.errors import UsageError
from tailrace.model.event import Event
from tailrace.model.run import TERMINAL_STATES, RunRow
from tailrace.settings import load_settings
from tailrace.store.database import Database
from tailrace.store.runs import Runs

TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.01

T = TypeVar("T")


async def await_run(run_id: str, *, timeout: float = TIMEOUT_SECONDS) -> RunRow:  # noqa: ASYNC109 - it names what was waited for
    """Wait until a run has ended and all its events are published, and return it.

    :param timeout: seconds; past it ``TimeoutError`` says what was found.
    """

    async def ended(runs: Runs) -> RunRow | None:
        run = await runs.get(run_id)
        return run if run.state in TERMINAL_STATES and run.backlog == 0 else None

    return await _until(ended, f"run {run_id!r} has ended and is published", timeout)


async def await_outbox_flush(run_id: str, seq: int | None = None, *, timeout: float = TIMEOUT_SECONDS) -> RunRow:  # noqa: ASYNC109 - as above
    """Wait until a run's events are published up to ``seq``, or all that are persisted now, and return the run."""
    wanted = seq

    async def flushed(runs: Runs) -> RunRow | None:
        nonlocal wanted
        run = await runs.get(run_id)
        if wanted is None:
            wanted = run.last_seq
        return run if run.next_seq > wanted else None

    return await _until(flushed, f"run {run_id!r} is published up to {seq or 'its last event'}", timeout)


async def await_stream_completion(stream: AsyncIterable[Event], *, timeout: float = TIMEOUT_SECONDS) -> list[Event]:  # noqa: ASYNC109 - as above
    """Read a stream to its end and return its events.

    :raises AssertionError: the seqs have a gap or a repetition, or the stream did not end with its terminal event.
    """
    events: list[Event] = []
    async with asyncio.timeout(timeout):
        async for event in stream:
            if events and event.seq != events[-1].seq + 1:
                raise AssertionError(f"seq {event.seq} came after {events[-1].seq}")
            if events and events[-1].is_terminal:
                raise AssertionError(f"seq {event.seq} came after the terminal event")
            events.append(event)
    if not events or not events[-1].is_terminal:
        raise AssertionError(f"the stream ended without a terminal event, after {len(events)} events")
    return events


async def _until(look: Callable[[Runs], Awaitable[T | None]], what: str, seconds: float) -> T:
    settings = load_settings()
    if settings.database_url is None:
        raise UsageError(
            "no test database is named: ask for the fixture `tailrace_database`, or set TAILRACE_DATABASE_URL"
        )
    database = Database(
        settings.database_url.get_secret_value(), schema=settings.db_schema, tx_timeout_ms=settings.tx_timeout_ms
    )
    await database.open()
    try:
        deadline = asyncio.get_running_loop().time() + seconds
        while (found := await look(Runs(database))) is None:
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"waited {seconds} s until {what}; it did not happen")
            await asyncio.sleep(POLL_SECONDS)
        return found
    finally:
        await database.close()
