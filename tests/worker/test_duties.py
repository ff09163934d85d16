"""Duties and threads: what a process does again and again, and what it does beside the loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import io
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tailrace.errors import BusUnavailable
from tailrace.exporters.logs import LogExporter
from tailrace.telemetry import DutyFailed, Telemetry
from tailrace.worker import threads
from tailrace.worker.duties import Duty, perform
from tailrace.worker.threads import Threads
from tests.patience import PATIENCE_SECONDS
from tests.write_support import Told


@asynccontextmanager
async def performing(duty: Duty, told: Told) -> AsyncIterator[None]:
    task = asyncio.create_task(perform(duty, Telemetry([told])))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("error", [BusUnavailable("the bus is away"), ValueError("a bug")], ids=["known", "unforeseen"])
async def test_a_duty_that_fails_is_told_and_tried_again(error: Exception) -> None:
    """Whatever befalls one of its turns, each time after a longer pause."""
    told, done = Told(), asyncio.Event()
    turns = 0

    async def once() -> bool:
        nonlocal turns
        turns += 1
        if turns <= 3:
            raise error
        done.set()
        return False

    async with performing(Duty("sweep", once, 3600), told):
        await done.wait()
    failures = told.of(DutyFailed, duty="sweep")
    assert len(failures) == 3
    assert all(str(error) in failure.error for failure in failures)
    assert failures[0].retry_seconds < failures[2].retry_seconds
    lines = io.StringIO()
    LogExporter(level="info", log_events=False, stream=lines)(failures[0])
    said = json.loads(lines.getvalue())
    unforeseen = isinstance(error, ValueError)
    assert (said["event"], said["level"]) == ("duty.failed", "error" if unforeseen else "warning")
    assert ("Traceback" in said.get("exception", "")) is unforeseen


async def test_a_duty_goes_on_at_once_while_there_is_reason_to() -> None:
    """And then waits until it is woken, however long its interval is."""
    left, idle, wake = 5, asyncio.Event(), asyncio.Event()

    async def once() -> bool:
        nonlocal left
        left -= 1
        if left <= 0:
            idle.set()
        return left > 0

    async with performing(Duty("work", once, 3600, wake), Told()):
        await idle.wait()
        assert left == 0
        idle.clear()
        wake.set()
        await idle.wait()
        assert left == -1


async def test_a_wake_up_during_a_turn_is_not_lost() -> None:
    """What was rung while the duty was busy gives it another turn."""
    wake, twice = asyncio.Event(), asyncio.Event()
    turns = 0

    async def once() -> bool:
        nonlocal turns
        turns += 1
        if turns == 1:
            wake.set()
        else:
            twice.set()
        return False

    async with performing(Duty("work", once, 3600, wake), Told()):
        await twice.wait()


async def test_an_interval_is_enough_without_a_wake_up() -> None:
    """A lost ring costs a poll."""
    thrice = asyncio.Event()
    turns = 0

    async def once() -> bool:
        nonlocal turns
        turns += 1
        if turns == 3:
            thrice.set()
        return False

    async with performing(Duty("poll", once, 0.001), Told()):
        await thrice.wait()


def stops() -> None:
    raise StopIteration("no more")


def exits() -> None:
    raise SystemExit(7)


@pytest.mark.parametrize(
    ("function", "error"), [(lambda: 1 / 0, ZeroDivisionError), (stops, RuntimeError), (exits, SystemExit)]
)
async def test_what_a_function_raises_in_its_thread_is_raised_where_it_was_called(
    function: Callable[[], object], error: type[BaseException]
) -> None:
    """Also what a future cannot carry, or what would end a thread silently."""
    with pytest.raises(error):
        await Threads().call(function)


async def test_a_function_sees_the_context_of_its_caller() -> None:
    """Tracing and logging that hang on context variables go on in the thread."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("caller's")
    assert await Threads().call(variable.get) == "caller's"


async def test_more_calls_than_threads_wait_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound holds for calls that were given up, too: their threads still run."""
    monkeypatch.setattr(threads, "THREADS_MAX", 3)
    pool = Threads()
    release, lock = threading.Event(), threading.Lock()
    busy: list[int] = []
    peak: list[int] = []

    def work() -> None:
        with lock:
            busy.append(1)
            peak.append(len(busy))
        release.wait()
        with lock:
            busy.pop()

    async def until_peak() -> None:
        while len(peak) < 3:  # noqa: ASYNC110 - the threads set no Event of the loop
            await asyncio.sleep(0.001)

    calls = [asyncio.create_task(pool.call(work)) for _ in range(10)]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await until_peak()
        calls[0].cancel()
        await asyncio.sleep(0)
        assert len(peak) == 3
        release.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] + [type(None)] * 9
    assert max(peak) == 3
