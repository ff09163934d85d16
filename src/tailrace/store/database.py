"""Connections to Postgres: a bounded pool, bounded statements, and driver errors wrapped once.

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
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg

from tailrace.errors import DatabaseReadOnly, DatabaseUnavailable
from tailrace.store.queries import query

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

# A connection of the pool or one of our own: both run statements alike.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

# Two writers, one outbox pass, and what HTTP and the duties ask at the same moment.
POOL_MAX = 16
CONNECT_SECONDS = 5.0
# The server ends a statement in time unless it cannot; its answer, which says so for certain, is worth this wait.
ANSWER_GRACE_SECONDS = 1.0

# What passes by itself: the server is away, starting, stopping, full, read-only, or too slow to answer in time.
_PASSING = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,  # as far as ``_is_misuse`` does not say otherwise
    asyncpg.InternalClientError,  # a server killed in the middle of an answer
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # a lock that cannot be had; a database that lets nobody in
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.PostgresSystemError,
)
# A session that is not the one in which the statement was prepared.
_OTHER_SESSION = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)

# asyncpg raises InterfaceError for its misuse, and for a connection or a pool that is gone, which alone passes: these
# texts tell them apart. A pooled connection that was lost between two statements counts as given back.
_GONE = ("closed", "closing", "released back to the pool", "another operation is cancelling")

# What an operator has to mend; everything goes on by itself once that is done.
_ADVICE: dict[type[Exception], str] = {
    asyncpg.exceptions.ClientConfigurationError: "Check TAILRACE_DATABASE_URL",
    asyncpg.InvalidPasswordError: "Check TAILRACE_DATABASE_URL",
    asyncpg.InvalidAuthorizationSpecificationError: "Check TAILRACE_DATABASE_URL",
    asyncpg.InvalidCatalogNameError: "Create the database first",
    asyncpg.UndefinedTableError: "Run `tailrace db upgrade`",
    asyncpg.InsufficientPrivilegeError: "Check the grants of the role that Tailrace connects as",
}
_HANDLED: tuple[type[Exception], ...] = (*_PASSING, *_OTHER_SESSION, *_ADVICE)
# Errors that end a connection, and with it the knowledge of what became of the statement under way. After any other
# error that Postgres sends, the statement has not happened.
_UNANSWERED = (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)


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
            async with asyncio.timeout(CONNECT_SECONDS):
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
        with passing("use", self.address):
            connection = await pool.acquire(timeout=self._tx_timeout_ms / 1000)
        try:
            with passing("use", self.address, sent=True):
                try:
                    yield connection
                except _OTHER_SESSION:
                    await self._prepare_no_more(pool)
                    raise
        finally:
            # What goes wrong here, the pool ends the connection for; it must not hide how the statement went.
            with suppress(*_PASSING):
                await pool.release(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside a transaction that commits at the end of the block."""
        async with self.connection() as connection, connection.transaction():
            if self.pooled:
                await connection.execute(query("transaction_bounds", self.schema), str(self._tx_timeout_ms))
            yield connection

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
            await connection.close(timeout=CONNECT_SECONDS)
        return bool(found != str(self._tx_timeout_ms))

    async def _prepare_no_more(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        """Treat the database as one behind a pooler from now on: it has shown to be one."""
        if not self.pooled:
            self.pooled = True
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
            # A plan made while a table was empty must not outlive its growth, and none of these statements gains
            # from compiling.
            "jit": "off",
        }
        return options | {"server_settings": session}


async def _keep(connection: Connection) -> None:
    """Return a connection to the pool as it is: nothing here changes session state, and a reset is a round trip."""


def address_of(url: str) -> str:
    """Return host, port and database of a URL, never its user or password."""
    parts = urlsplit(url)
    host = parts.hostname or "local socket"
    return f"{host}:{parts.port or 5432}{parts.path or '/'}"


@contextmanager
def passing(verb: str, address: str, *, sent: bool = False) -> Iterator[None]:
    """Turn driver errors that pass by themselves, or by an operator's hand, into ``DatabaseUnavailable``.

    What can only be a mistake of ours is left as it is, to be found in the log.

    :param sent: statements are executed in the block, so that one may be lost between its commit and its answer.
    """
    try:
        yield
    except _HANDLED as error:
        if _is_misuse(error):
            raise
        found = str(error).rstrip(".") or type(error).__name__
        advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), "It may pass: try again")
        unavailable = DatabaseUnavailable(f"could not {verb} Postgres at {address}: {found}. {advice}")
        unavailable.sent = sent and (isinstance(error, _UNANSWERED) or not isinstance(error, asyncpg.PostgresError))
        raise unavailable from error


def _is_misuse(error: Exception) -> bool:
    """Whether the driver was used wrongly, as by an argument of the wrong type or one too many."""
    if not isinstance(error, asyncpg.InterfaceError) or isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return False
    return not any(text in str(error) for text in _GONE)
