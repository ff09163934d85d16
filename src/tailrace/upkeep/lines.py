"""The lines between processes: whether wake-ups arrive, and whether the bus answers."""

from __future__ import annotations

import asyncio

from tailrace.bus.bus import Bus
from tailrace.bus.linked import CONNECT_SECONDS, address_of
from tailrace.errors import BusUnavailable
from tailrace.store.doorbell import TEST_SECONDS, Doorbell
from tailrace.upkeep.finding import Code, Finding

LOOK_SECONDS = 0.02
# The doorbell connects, and then waits for a ring of its own.
HEARING_SECONDS = TEST_SECONDS + CONNECT_SECONDS


async def examine_wakeups(doorbell: Doorbell) -> list[Finding]:
    """Wait until the doorbell, which some duty runs, hears a ring of its own; return a finding when it does not."""
    listened = False
    try:
        async with asyncio.timeout(HEARING_SECONDS) as bound:
            while not doorbell.hearing:
                if doorbell.listening and not listened:
                    listened = True
                    bound.reschedule(asyncio.get_running_loop().time() + TEST_SECONDS)
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError:
        found = (
            f"LISTEN was accepted, and a ring of our own did not arrive within {TEST_SECONDS:g} s, as behind PgBouncer "
            "in transaction mode"
            if listened
            else f"no LISTEN connection could be made within {HEARING_SECONDS:g} s"
        )
        return [
            Finding(
                Code.WAKEUP_DEAD,
                "warning",
                f"{found}; everything is looked for by polling, which costs up to a second of latency",
                "name Postgres itself, or a pooler in session mode, in TAILRACE_DATABASE_URL",
            )
        ]
    return []


async def examine_bus(bus: Bus, url: str) -> list[Finding]:
    """Wait until the bus, which some duty links, answers; return a finding when it does not."""
    deadline = asyncio.get_running_loop().time() + CONNECT_SECONDS
    while True:
        try:
            await bus.check()
        except BusUnavailable as error:
            if asyncio.get_running_loop().time() > deadline:
                return [_unreachable(url, error)]
        else:
            return []
        await asyncio.sleep(LOOK_SECONDS)


def _unreachable(url: str, error: BusUnavailable) -> Finding:
    return Finding(
        Code.BUS_UNREACHABLE,
        "critical",
        f"{error}; streams of other processes than the outbox's look into the database every second meanwhile",
        f"start the server at {address_of(url)} or correct TAILRACE_BUS_URL; nothing is lost, nothing need be repaired",
    )
