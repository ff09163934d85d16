"""The turn: one process at a time archives, restores or purges.

It is a row with an end, by database time: a holder that dies or freezes is replaced when it is over.  That alone would
not keep a holder that was frozen from going on where it stopped; every change it makes asks for the turn again, in the
statement itself (``store/archives.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tailrace.errors import ArchiveBusy, DatabaseUnavailable
from tailrace.store.archives import Archives

TURN_SECONDS = 30.0
RENEWALS_PER_TURN = 3
ASK_SECONDS = 0.5
# Whoever died in its turn is waited for.
PATIENT_SECONDS = TURN_SECONDS + 5


@asynccontextmanager
async def turn(archives: Archives, *, wait_seconds: float) -> AsyncIterator[None]:
    """Have the turn inside the block.

    :param wait_seconds: how long to wait for another process to be done; longer than a turn outlives one that died.
    :raises ArchiveBusy: it was not done by then.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_seconds
    while not await archives.take_turn(TURN_SECONDS):
        if loop.time() >= deadline:
            raise ArchiveBusy("another process archives, restores or purges now; try again when it is done")
        await asyncio.sleep(ASK_SECONDS)
    renewing = asyncio.create_task(_renew(archives))
    try:
        yield
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing
        with suppress(DatabaseUnavailable):
            await archives.leave_turn()


async def _renew(archives: Archives) -> None:
    while True:
        await asyncio.sleep(TURN_SECONDS / RENEWALS_PER_TURN)
        with suppress(DatabaseUnavailable):
            if not await archives.take_turn(TURN_SECONDS):
                return  # The next change will find it out.
