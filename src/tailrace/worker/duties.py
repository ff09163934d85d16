"""Duties: things a process does again and again.  Each is an ``async def x_once`` elsewhere; the loop is here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tailrace.errors import TailraceError
from tailrace.telemetry import DutyFailed, Telemetry

BACKOFF_FIRST_SECONDS = 0.05
BACKOFF_MAX_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Duty:
    """Something to do whenever ``wake`` is set, and at least every ``interval_seconds``.

    ``once`` returns whether there is reason to call it again at once.  After a failure it is called again after
    ``retry_max_seconds`` at the latest.
    """

    name: str
    once: Callable[[], Awaitable[bool]]
    interval_seconds: float
    wake: asyncio.Event | None = None
    retry_max_seconds: float = BACKOFF_MAX_SECONDS


async def perform(duty: Duty, telemetry: Telemetry) -> None:
    """Perform a duty until cancelled.  A failure is told and tried again, later each time up to a bound."""
    wake = duty.wake or asyncio.Event()
    failures = 0
    while True:
        wake.clear()
        try:
            again = await duty.once()
            failures = 0
        except Exception as error:  # noqa: BLE001 - a duty outlives whatever befalls one of its turns
            failures += 1
            delay = min(duty.retry_max_seconds, BACKOFF_FIRST_SECONDS * 2 ** min(failures - 1, 10))
            delay *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads processes out, guards nothing
            unforeseen = None if isinstance(error, TailraceError) else error
            text = str(error) if unforeseen is None else f"{type(error).__name__}: {error}"
            telemetry.tell(DutyFailed(duty.name, text, round(delay, 3), unforeseen))
            await asyncio.sleep(delay)
            continue
        if again:
            continue
        try:
            async with asyncio.timeout(duty.interval_seconds):
                await wake.wait()
        except TimeoutError:
            pass
