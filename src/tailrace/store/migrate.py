"""Schema versions: numbered SQL files, applied forward only, one transaction each, under an advisory lock."""

from __future__ import annotations

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
    match status.state:
        case "behind":
            raise SchemaMismatch(
                f"the schema {database.schema!r} at {database.address} has version {status.found}, this Tailrace needs "
                f"{status.needed}; run `tailrace db upgrade`"
            )
        case "ahead":
            raise SchemaMismatch(
                f"the schema {database.schema!r} at {database.address} has version {status.found}, newer than "
                f"the {status.needed} this Tailrace knows; upgrade the tailrace package, then see `tailrace db status`"
            )


async def upgrade(database: Database) -> list[str]:
    """Apply what is missing and return the names of what was applied.

    :raises SchemaMismatch: the database is ahead of this code.
    :raises DatabaseUnavailable: Postgres is away, or another process is upgrading and does not get done.
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
    """Apply the first migration that is missing and return its name, None when there is none.

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
            await connection.execute("set local lock_timeout = 0")
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
