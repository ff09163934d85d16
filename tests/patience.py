"""How long anything is waited for that is to happen, and what is tried again, whatever else the machine has to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from tailrace.errors import DatabaseUnavailable
from tailrace.store.database import Database
from tailrace.store.migrate import upgrade

# Far beyond what anything takes here: it is no measure of speed, and only a test that fails ever waits for so long.
PATIENCE_SECONDS = 60.0
# As playwright counts.
PATIENCE_MS = round(PATIENCE_SECONDS * 1000)
# What has a bound that belongs to the product is tried again: a machine does not stand still three times in a row.
TRIES = 3

T = TypeVar("T")


async def tried_again(attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what the attempt returns, which is made up to three times while Postgres is out of reach.

    A connection has ``CONNECT_SECONDS`` to come.
    """
    for _ in range(TRIES - 1):
        try:
            return await attempt()
        except DatabaseUnavailable:
            continue
    return await attempt()


async def asked_again(ask: Callable[[], Awaitable[T]], is_expected: Callable[[T], bool]) -> T:
    """Return the first of three answers that is as expected, or else the third.

    For the doctor: that a process stood still for the three seconds in which a canary is published is a finding, and on
    a machine that is busy with other things a true one.  What is there to stay is found each time.
    """
    for _ in range(TRIES - 1):
        if is_expected(answer := await ask()):
            return answer
    return await ask()


@asynccontextmanager
async def opened(database: Database, *, upgraded: bool = False) -> AsyncIterator[Database]:
    """Open a database, with the tables of this version if asked for; close it at the end of the block."""

    async def prepare() -> None:
        try:
            await database.open()
            if upgraded:
                await upgrade(database)
        except BaseException:
            await database.close()
            raise

    await tried_again(prepare)
    try:
        yield database
    finally:
        await database.close()
