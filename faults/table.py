"""What the campaign reads from Postgres directly, past the proxy, while it goes on and when it has healed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import asyncpg

from faults.checks import Row
from faults.cluster import Cluster

PASSING = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
HEADS_SECONDS = 0.1


class Table:
    """The tables of the campaign, by a connection of its own that is made anew when it breaks."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._turn = asyncio.Lock()

    async def rows(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """Run a statement; raise one of ``PASSING`` when the server is away."""
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(
                    self._cluster.url(), timeout=5, server_settings={"application_name": "faults"}
                )
            return await self._connection.fetch(sql, *args, timeout=20)

    async def value(self, sql: str, *args: Any) -> Any:
        """Run a statement and return the first column of its first row."""
        return (await self.rows(sql, *args))[0][0]

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.terminate()

    async def runs(self, prefix: str) -> list[Row]:
        """Return the runs of a round, each with its outbox cursor."""
        rows = await self.rows(
            "select runs.*, outbox.next_seq from tailrace.runs as runs"
            " join tailrace.run_outbox as outbox on outbox.run_id = runs.id where runs.id like $1 order by runs.id",
            f"{prefix}%",
        )
        return [dict(row) for row in rows]

    async def events(self, prefix: str) -> dict[str, list[Row]]:
        """Return the events of a round's runs, in order of seq."""
        found: dict[str, list[Row]] = {}
        for row in await self.rows(
            "select run_id, seq, type, name, fn, data, epoch, published_at from tailrace.run_events"
            " where run_id like $1 order by run_id, seq",
            f"{prefix}%",
        ):
            found.setdefault(row["run_id"], []).append(dict(row))
        return found

    async def held_by(self, pid: int) -> dict[str, int]:
        """Return the epoch of each run whose lease the worker with this process id holds."""
        rows = await self.rows(
            "select id, epoch from tailrace.runs where state = 'started' and split_part(lease_owner, ':', 2) = $1",
            str(pid),
        )
        return {row["id"]: row["epoch"] for row in rows}

    async def epochs(self, run_ids: Sequence[str]) -> dict[str, int]:
        """Return the epoch of each run."""
        rows = await self.rows("select id, epoch from tailrace.runs where id = any($1)", list(run_ids))
        return {row["id"]: row["epoch"] for row in rows}

    async def watch_heads(self, prefix: str, heads: dict[tuple[str, int], int]) -> None:
        """Note where each run's log ended when it was first seen under each epoch, until cancelled."""
        while True:
            with suppress(*PASSING):
                for row in await self.rows(
                    "select id, epoch, last_seq from tailrace.runs where id like $1 and epoch > 0", f"{prefix}%"
                ):
                    heads.setdefault((row["id"], row["epoch"]), row["last_seq"])
            await asyncio.sleep(HEADS_SECONDS)


def tokens_of(events: dict[str, list[Row]]) -> dict[str, list[str]]:
    """Return the tokens of the agents' events, by run."""
    return {run_id: [token for row in rows if (token := _token(row)) is not None] for run_id, rows in events.items()}


def _token(row: Row) -> str | None:
    if row["type"] == "Custom":
        token: str = json.loads(row["data"])["token"]
        return token
    if row["type"] == "DebugTrace" and row["fn"] != "run.resumed":
        return str(row["fn"])
    return None
