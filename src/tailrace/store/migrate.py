"""Schema versions: numbered SQL files, applied forward only, one transaction each, under an advisory lock.

An upgrade runs beside processes of the version before, which go on (docs/adr/0025).  To change a table it needs a lock
that waits for every transaction on it, and behind which every later statement waits in turn.  So it waits for such a
lock a moment only, gives all it has locked back, lets the others pass, and tries again:

    lock ──had──▶ change, note the version, commit
      │ ▲
      └─┘ not had in TABLE_WAIT_MS: roll back, pause; in the end give up, naming who holds the tables
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from importlib import resources

import asyncpg

from tailrace.errors import DatabaseUnavailable, SchemaMismatch
from tailrace.store.database import Connection, Database
from tailrace.store.queries import in_schema, query
from tailrace.store.trouble import passing

# Two processes that upgrade at the same moment wait for each other; the number is the ASCII of "trail".
ADVISORY_LOCK = 0x747261696C
# A migration may take minutes; one that hangs must not make every process that starts hang with it, without a word.
LOCK_WAIT_MS = 60_000
# Appends wait as long as a migration waits for its table: well within the five seconds after which they are given up
# and sent again (TAILRACE_TX_TIMEOUT_MS).  Not Postgres's deadlock_timeout, one second, so that a lock that cannot be
# had is reported as that.
TABLE_WAIT_MS = 800
# In a pause all that has queued up gets through, and more than half of the time is theirs.
TABLE_PAUSE_SECONDS = 1.0
# A dump or a report may hold a table for hours: then a person has to choose.
TABLE_TRIES_MAX = 30
_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    version: int
    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """What the database has (0: nothing) and what this code needs."""

    found: int
    needed: int

    @property
    def state(self) -> str:
        """``current``, ``behind`` or ``ahead``."""
        if self.found == self.needed:
            return "current"
        return "behind" if self.found < self.needed else "ahead"


def migrations() -> list[Migration]:
    """Return every migration, oldest first."""
    found = [
        Migration(int(match[1]), file.name, file.read_text("utf-8"))
        for file in resources.files(__package__).joinpath("migrations").iterdir()
        if (match := _FILE_NAME.fullmatch(file.name))
    ]
    return sorted(found, key=lambda migration: migration.version)


async def schema_status(database: Database) -> SchemaStatus:
    """Return which version the database has and which this code needs."""
    async with database.connection() as connection:
        found = await _version(connection, database.schema)
    return SchemaStatus(found=found, needed=migrations()[-1].version)


async def require_current(database: Database) -> None:
    """Raise ``SchemaMismatch`` unless the database has exactly the version this code needs."""
    status = await schema_status(database)
    if status.state != "current":
        raise _mismatch(database, status)


async def require_not_behind(database: Database) -> SchemaStatus:
    """Return the status of the schema; raise ``SchemaMismatch`` when it lacks what this code needs.

    For processes that run: one whose database was upgraded under it goes on.
    """
    status = await schema_status(database)
    if status.state == "behind":
        raise _mismatch(database, status)
    return status


def _mismatch(database: Database, status: SchemaStatus) -> SchemaMismatch:
    where = f"the schema {database.schema!r} at {database.address} has version {status.found}"
    if status.state == "behind":
        return SchemaMismatch(f"{where}, this Tailrace needs {status.needed}; run `tailrace db upgrade`")
    return SchemaMismatch(
        f"{where}, newer than the {status.needed} this Tailrace knows; upgrade the tailrace package, then see "
        "`tailrace db status`"
    )


async def upgrade(database: Database) -> list[str]:
    """Apply what is missing and return the names of what was applied.

    What was applied when an error comes stays; the same call goes on from there.

    :raises SchemaMismatch: the database is ahead of this code.
    :raises DatabaseUnavailable: Postgres is away, another process is upgrading and does not get done, or a transaction
        holds a table and does not end.
    """
    applied = []
    connection = await database.connect(patient=True)
    try:
        with passing("upgrade", database.address):
            while (name := await _apply_next(connection, database)) is not None:
                applied.append(name)
    finally:
        await connection.close()
    return applied


async def _apply_next(connection: asyncpg.Connection[asyncpg.Record], database: Database) -> str | None:
    """Apply the first migration that is missing and return its name, None when there is none."""
    refused: asyncpg.PostgresError | None = None
    for _ in range(TABLE_TRIES_MAX):
        try:
            return await _try_next(connection, database)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            refused = error
            await asyncio.sleep(TABLE_PAUSE_SECONDS)
    raise await _cannot_lock(connection, database) from refused


async def _cannot_lock(connection: asyncpg.Connection[asyncpg.Record], database: Database) -> DatabaseUnavailable:
    """Return the error that names who holds the tables."""
    waited = TABLE_TRIES_MAX * (TABLE_WAIT_MS / 1000 + TABLE_PAUSE_SECONDS)
    found = await connection.fetchrow(query("migrations_blocker", database.schema))
    if found is None:
        who = "The transactions that held it have ended meanwhile: try again"
    else:
        session = found["pid"]
        who = (
            f"The oldest transaction on these tables is of session {session} ({found['program'] or 'unnamed'}, "
            f"{found['seconds']:.0f} s old). Let it finish and try again, or end it: "
            f"select pg_terminate_backend({session})"
        )
    return DatabaseUnavailable(
        f"a migration of the schema {database.schema!r} at {database.address} could not lock a table within "
        f"{waited:g} s, in {TABLE_TRIES_MAX} attempts; it has changed nothing. {who}"
    )


async def _try_next(connection: asyncpg.Connection[asyncpg.Record], database: Database) -> str | None:
    """Apply the first migration that is missing, unless one of its tables cannot be locked soon.

    All of it is the transaction's, the lock too: behind a pooler what is the session's would outlive this process.
    """
    locked = False
    try:
        async with connection.transaction():
            # A migration of a large table, and the wait for another process's, may take longer than a statement may.
            await connection.execute(
                "set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0; "
                f"set local lock_timeout = {LOCK_WAIT_MS}"
            )
            await connection.execute("select pg_advisory_xact_lock($1)", ADVISORY_LOCK)
            locked = True
            await connection.execute(f"set local lock_timeout = {TABLE_WAIT_MS}")
            return await _apply_first_missing(connection, database)
    except asyncpg.LockNotAvailableError as error:
        if locked:
            raise
        holder = await connection.fetchval(query("migrations_holder", database.schema), ADVISORY_LOCK)
        raise DatabaseUnavailable(
            f"another process upgrades the database at {database.address} and was not done after "
            f"{LOCK_WAIT_MS / 1000:g} s: its session is {holder}. Let it finish and try again; if it hangs, end it: "
            f"select pg_terminate_backend({holder})"
        ) from error


async def _apply_first_missing(connection: asyncpg.Connection[asyncpg.Record], database: Database) -> str | None:
    schema = database.schema
    if await connection.fetchval("select to_regnamespace($1)", f'"{schema}"') is None:
        await connection.execute(f'create schema "{schema}"')
    await connection.execute(query("migrations_table", schema))
    found = await _version(connection, schema)
    if found > migrations()[-1].version:
        await require_current(database)
    for migration in migrations():
        if migration.version > found:
            await connection.execute(in_schema(migration.sql, schema))
            await connection.execute(query("migration_applied", schema), migration.version, migration.name)
            return migration.name
    return None


async def _version(connection: Connection, schema: str) -> int:
    if await connection.fetchval("select to_regclass($1)", f'"{schema}".schema_migrations') is None:
        return 0
    version: int = await connection.fetchval(query("migrations_version", schema))
    return version
