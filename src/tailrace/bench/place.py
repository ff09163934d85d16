"""Where a measurement writes: a schema of its own, made for it and removed after it, in the database that is measured.

Nothing that is in the database already is read or written.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.migrate import upgrade

# What one process is asked to hold at most: the streams of the row with the most of them, and the runs of all.
STREAMS_MAX = 6000
RUNS_MAX = 400
TX_TIMEOUT_MS = 60_000


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    :param seconds: how long one measurement goes on, where that can be chosen.
    :param events: of the row's long log.
    :param clients: of the fan-out.
    :param streams: that stay idle.
    :param history: events of finished runs that the tables hold beforehand, in the row on growth.
    :param rounds: of every row; None for each row's own number.
    """

    seconds: float = 5.0
    events: int = 100_000
    clients: int = 1000
    streams: int = 2000
    history: int = 1_000_000
    finished_runs: int = 200_000
    rounds: int | None = None


# For breakage alone: whether every row still runs, not what it gives.
SHORT = Scale(seconds=0.5, events=2000, clients=50, streams=100, history=5000, finished_runs=1000, rounds=1)
FULL_HISTORY = 10_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """One database, a folder for files of the measurement, and, inside ``fresh``, a schema."""

    url: str
    folder: Path
    scale: Scale
    schema: str = ""

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[Place]:
        """Yield this place with a new, upgraded schema, which is removed at the end, whatever happens."""
        place = replace(self, schema=f"tailrace_bench_{secrets.token_hex(6)}")
        async with place.database() as database:
            try:
                await upgrade(database)
                yield place
            finally:
                async with database.connection() as connection:
                    await connection.execute(f'drop schema if exists "{place.schema}" cascade')

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """Yield a pool on this place's schema."""
        database = Database(self.url, schema=self.schema, tx_timeout_ms=TX_TIMEOUT_MS)
        await database.open()
        try:
            yield database
        finally:
            await database.close()

    def settings(self) -> Settings:
        """Return the settings of a Tailrace of this place: all guarantees on, no keys, nothing of the environment's."""
        # Given one by one, so that no variable of the environment has a say.
        given: dict[str, Any] = {name: field.get_default() for name, field in Settings.model_fields.items()}
        return Settings(**(given | self._named()))

    def environment(self) -> dict[str, str]:
        """Return the same settings as variables of a process of this place."""
        return {f"TAILRACE_{name.upper()}": str(value) for name, value in self._named().items()}

    def gate(self) -> Path:
        """Return the path of a file that is not there yet; agents begin when it is."""
        return self.folder / f"gate-{secrets.token_hex(6)}"

    def _named(self) -> dict[str, object]:
        return {
            "database_url": self.url,
            "db_schema": self.schema,
            "log_level": "error",
            "worker_concurrency": RUNS_MAX,
            "max_streams": STREAMS_MAX,
        }
