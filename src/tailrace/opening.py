"""Opens the database that the settings name, or the embedded one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tailrace import local
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.migrate import upgrade


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """Open the database that the settings name, or the embedded one, which is started and upgraded.

    :raises LocalPostgresError: the embedded server cannot be had.
    :raises DatabaseUnavailable: the named one cannot be reached.
    """
    async with open_server(settings) as url, AsyncExitStack() as stack:
        database = Database(url, schema=settings.db_schema, tx_timeout_ms=settings.tx_timeout_ms)
        await database.open()
        stack.push_async_callback(database.close)
        if settings.database_url is None:
            await upgrade(database)
        yield database


@asynccontextmanager
async def open_server(settings: Settings) -> AsyncIterator[str]:
    """Yield the URL of the database that the settings name, or of the embedded one, which runs inside the block.

    :raises LocalPostgresError: the embedded server cannot be had.
    """
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    async with _embedded(settings.data_dir) as url:
        yield url


@asynccontextmanager
async def _embedded(data_dir: Path | None) -> AsyncIterator[str]:
    server = await asyncio.to_thread(local.start, data_dir)
    try:
        yield server.url
    finally:
        await asyncio.to_thread(server.close)
