"""Connections to Postgres: a bounded pool and bounded statements.

Every statement runs under ``statement_timeout`` and every transaction under ``idle_in_transaction_session_timeout``
(``TAILRACE_TX_TIMEOUT_MS``): a process that freezes while it holds a row lock loses its session and the lock with it.
Measured: with 2 s set, the lock of a frozen publisher was free after 1.6 s; unset, never.

The server's own bounds say nothing when the server is what has frozen, when the network swallows its answers, or when a
commit waits for a standby, which ``statement_timeout`` does not end.  So the client waits for an answer a little longer
than the server may take for it, and then gives the statement up.  What it has done by then is not known.

A pooler in transaction mode (PgBouncer) gives each transaction to another session: it refuses or forgets what is set
for the session, and a prepared statement is not there when it is called again.  ``open`` finds out; behind a pooler no
statement is prepared, a transaction sets its own bounds, and this side bounds single statements.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg

from tailrace.errors import DatabaseReadOnly, DatabaseUnavailable
from tailrace.store.queries import query
from tailrace.store.trouble import OTHER_SESSION, PASSING, passing

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

# A connection of the pool or one of our own: both run statements alike.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

# Two writers, one outbox pass, and what HTTP and the duties ask at the same moment.
POOL_MAX = 16
# Longer than a busy machine stands still: a process that begins just then would give up.
CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 5.0
# Connections that are kept at hand between statements instead of going back to the driver's pool, which costs this
# process 50 µs a statement, twice what a small one costs itself (measured).  Two appends, an outbox pass, a request.
AT_HAND_MAX = 4
# The server ends a statement in time unless it cannot; its answer, which says so for certain, is worth this wait.
ANSWER_GRACE_SECONDS = 1.0


class Database:
    """A pool of connections to one database, and the statements of one schema; ``url`` holds the password."""

    def __init__(self, url: str, *, schema: str, tx_timeout_ms: int) -> None:
        self.schema = schema
        self.url = url
        self._tx_timeout_ms = tx_timeout_ms
        self._answer_seconds = tx_timeout_ms / 1000 + ANSWER_GRACE_SECONDS
        # Whether a pooler stands between, in whose sessions nothing lasts.
        self.pooled = False
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._at_hand: list[PoolConnectionProxy[asyncpg.Record]] = []
        self._borrowing = 0
        self._giving: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """Where the database is, without user or password."""
        return address_of(self.url)

    async def open(self) -> None:
        """Open the pool; raise ``DatabaseUnavailable`` when no connection can be had."""
        with passing("connect to", self.address):
            self.pooled = await self._finds_pooler()
            self._pool = await asyncpg.create_pool(
                self.url,
                # A pool with a floor tries to restore it in the background and logs every failure in its own way.
                min_size=0,
                max_size=POOL_MAX,
                max_inactive_connection_lifetime=300,
                reset=_keep,
                **self._options(),
            )
            async with self._pool.acquire(timeout=CONNECT_SECONDS):
                pass  # To learn now whether the server answers, and to have a connection at hand.

    async def close(self) -> None:
        """Close the pool; connections that do not end in time are cut."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._at_hand:
                    await self._give_back(pool, self._at_hand.pop())
                await pool.close()
        except TimeoutError:
            pool.terminate()

    async def connect(self, *, patient: bool = False) -> asyncpg.Connection[asyncpg.Record]:
        """Return a connection of one's own, outside the pool, for LISTEN; or a patient one, for migrations.

        A patient one waits for an answer as long as it takes.
        """
        with passing("connect to", self.address):
            return await asyncpg.connect(self.url, **self._options(patient=patient))

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection; raise ``DatabaseUnavailable`` for trouble that passes."""
        if self._pool is None:
            raise DatabaseUnavailable(f"the connections to {self.address} are closed; start Tailrace first")
        pool = self._pool
        connection = self._usable_at_hand() or await self._borrow(pool)
        try:
            yield connection
        except BaseException as error:
            await self._give_back(pool, connection)
            if isinstance(error, OTHER_SESSION):
                await self._prepare_no_more(pool)
            with passing("use", self.address, sent=True):
                raise
        if self._borrowing or len(self._at_hand) >= AT_HAND_MAX or pool is not self._pool:
            await self._give_back(pool, connection)
        else:
            self._at_hand.append(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside a transaction that commits at the end of the block."""
        async with self.connection() as connection:
            await connection.execute("begin")
            try:
                if self.pooled:
                    await connection.execute(query("transaction_bounds", self.schema), str(self._tx_timeout_ms))
                yield connection
            except BaseException:
                # A connection that is lost has rolled back already; what went wrong first is what has to be told.
                with suppress(*PASSING):
                    await connection.execute("rollback")
                raise
            await connection.execute("commit")

    async def rows(self, name: str, *args: Any) -> list[asyncpg.Record]:
        """Run the statement ``name`` and return its rows."""
        async with self.connection() as connection:
            return await connection.fetch(query(name, self.schema), *args)

    async def row(self, name: str, *args: Any) -> asyncpg.Record | None:
        """Run the statement ``name`` and return its first row."""
        async with self.connection() as connection:
            return await connection.fetchrow(query(name, self.schema), *args)

    async def value(self, name: str, *args: Any) -> Any:
        """Run the statement ``name`` and return the first column of its first row."""
        async with self.connection() as connection:
            return await connection.fetchval(query(name, self.schema), *args)

    async def require_writable(self) -> None:
        """Raise ``DatabaseReadOnly`` on a standby, and where transactions are read-only unless they say otherwise."""
        found = await self.row("session_writable")
        if found is None or not found["is_read_only"]:
            return
        if found["is_standby"]:
            what = "is a standby"
            advice = (
                "name the primary in TAILRACE_DATABASE_URL (`target_session_attrs=read-write` finds it among hosts)"
            )
        else:
            what = "has default_transaction_read_only on"
            advice = "switch it off for the server, the database or the role of Tailrace"
        raise DatabaseReadOnly(f"Postgres at {self.address} {what} and takes no writes: {advice}")

    def _usable_at_hand(self) -> PoolConnectionProxy[asyncpg.Record] | None:
        while self._at_hand:
            connection = self._at_hand.pop()
            # The pool takes a connection that was closed back by itself, and this end of it may not be asked any more.
            with suppress(asyncpg.InterfaceError):
                if not connection.is_closed():
                    return connection
        return None

    async def _borrow(self, pool: asyncpg.Pool[asyncpg.Record]) -> PoolConnectionProxy[asyncpg.Record]:
        self._borrowing += 1
        try:
            with passing("use", self.address):
                return await pool.acquire(timeout=self._tx_timeout_ms / 1000)
        finally:
            self._borrowing -= 1

    async def _give_back(
        self, pool: asyncpg.Pool[asyncpg.Record], connection: PoolConnectionProxy[asyncpg.Record]
    ) -> None:
        # It goes on when its caller is cancelled: the driver would log what goes wrong then as never retrieved.
        giving = asyncio.create_task(_release(pool, connection))
        self._giving.add(giving)
        giving.add_done_callback(self._giving.discard)
        await asyncio.shield(giving)

    async def _finds_pooler(self) -> bool:
        """Connect as to Postgres itself; return whether what is set for the session was refused or is not there."""
        options = self._options() | {"statement_cache_size": 0}
        try:
            connection = await asyncpg.connect(self.url, **options)
        except asyncpg.ProtocolViolationError as error:
            if "startup parameter" not in str(error):
                raise
            return True
        try:
            found = await connection.fetchval(query("session_bound", self.schema), timeout=CONNECT_SECONDS)
        finally:
            await connection.close(timeout=CLOSE_SECONDS)
        return bool(found != str(self._tx_timeout_ms))

    async def _prepare_no_more(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        """Treat the database as one behind a pooler from now on: it has shown to be one."""
        if not self.pooled:
            self.pooled = True
            while self._at_hand:
                await self._give_back(pool, self._at_hand.pop())
            pool.set_connect_args(self.url, **self._options())
            await pool.expire_connections()

    def _options(self, *, patient: bool = False) -> dict[str, Any]:
        options: dict[str, Any] = {
            "timeout": CONNECT_SECONDS,
            "command_timeout": None if patient else self._answer_seconds,
        }
        session = {"application_name": "tailrace", "timezone": "UTC"}
        if self.pooled:
            return options | {"server_settings": session, "statement_cache_size": 0}
        bound = str(self._tx_timeout_ms)
        session |= {
            "statement_timeout": bound,
            "lock_timeout": bound,
            "idle_in_transaction_session_timeout": bound,
            # None of these statements gains from compiling.
            "jit": "off",
            # A statement's plan lasts as long as its session. One that was made on empty tables read them from end to
            # end, more with every run, until something analysed them; none of these statements wants that ever.
            "enable_seqscan": "off",
        }
        return options | {"server_settings": session}


async def _release(pool: asyncpg.Pool[asyncpg.Record], connection: PoolConnectionProxy[asyncpg.Record]) -> None:
    # What goes wrong here, the pool ends the connection for; it must not hide how the statement went.
    with suppress(*PASSING):
        await pool.release(connection)


async def _keep(connection: Connection) -> None:
    """Return a connection to the pool as it is: nothing here changes session state, and a reset is a round trip."""


def address_of(url: str) -> str:
    """Return host, port and database of a URL, never its user or password."""
    parts = urlsplit(url)
    host = parts.hostname or "local socket"
    return f"{host}:{parts.port or 5432}{parts.path or '/'}"
