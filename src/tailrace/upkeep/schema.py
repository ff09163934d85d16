"""The tables: whether they are of the version that this code needs, and whether every index is there.

The migrations are the one list of what should be there; they are read as text, so that nothing has to be made to know.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tailrace.store.database import Database
from tailrace.store.health import Health
from tailrace.store.migrate import Migration, migrations, schema_status
from tailrace.store.queries import in_schema
from tailrace.upkeep.finding import Code, Finding

_STATEMENT = re.compile(
    r"(?P<create>create\s+(?:unique\s+)?index\s+(?:if\s+not\s+exists\s+)?(?P<name>\w+)\s+on\s+[^;]*);"
    r"|drop\s+index\s+(?:if\s+exists\s+)?tailrace\.(?P<dropped>\w+)"
    r"|create\s+table\s+(?:if\s+not\s+exists\s+)?tailrace\.(?P<table>\w+)\s*\((?P<columns>[^;]*)\)[^;]*;",
    re.IGNORECASE,
)
_MAKING = re.compile(r"\bindex\s+(?:if\s+not\s+exists\s+)?", re.IGNORECASE)
_COMMENT = re.compile(r"--[^\n]*")
MIGRATIONS_KEY = "schema_migrations_pkey"


@dataclass(frozen=True, slots=True)
class Index:
    """An index that has to be there; ``statement`` makes it, None where it comes with its table."""

    name: str
    statement: str | None


def needed_indexes(steps: Sequence[Migration] | None = None) -> dict[str, Index]:
    """Return the indexes that the migrations leave behind, by name."""
    needed = {MIGRATIONS_KEY: Index(MIGRATIONS_KEY, None)}
    for migration in steps if steps is not None else migrations():
        for found in _STATEMENT.finditer(_COMMENT.sub("", migration.sql)):
            if found["dropped"]:
                needed.pop(found["dropped"], None)
            elif found["name"]:
                needed[found["name"]] = Index(found["name"], " ".join(found["create"].split()))
            elif "primary key" in found["columns"].lower():
                name = f"{found['table']}_pkey"
                needed[name] = Index(name, None)
    return needed


async def examine_schema(database: Database) -> list[Finding]:
    """Return what is wrong with the version of the tables."""
    status = await schema_status(database)
    if status.state == "current":
        return []
    where = f"the schema {database.schema!r} has version {status.found}"
    if status.state == "behind":
        detail, action = f"{where}, this Tailrace needs {status.needed}", "run `tailrace db upgrade`"
    else:
        detail = f"{where}, newer than the {status.needed} that this Tailrace knows"
        action = "upgrade the tailrace package; the database goes only forward"
    return [Finding(Code.SCHEMA_BEHIND, "critical", detail, action)]


async def examine_indexes(database: Database, health: Health) -> list[Finding]:
    """Return which indexes are missing, or were not completed."""
    there = await health.indexes()
    findings = []
    for name, index in needed_indexes().items():
        if there.get(name):
            continue
        statement = _statement(index, database.schema)
        if name in there:
            detail = f"the index {name} is not valid: making it was interrupted, and Postgres does not use it"
            action = f'in psql: drop index concurrently "{database.schema}".{name}; then {statement}'
        else:
            detail = f"the index {name} is not there; what it serves reads whole tables instead"
            action = f"in psql: {statement}"
        findings.append(Finding(Code.INDEX_MISSING, "critical", detail, action))
    return findings


def _statement(index: Index, schema: str) -> str:
    if index.statement is None:
        table = index.name.removesuffix("_pkey")
        return f'alter table "{schema}".{table} add primary key (…), with the columns that its migration names'
    # Without `concurrently` it would hold every writer up for as long as it takes.
    made = _MAKING.sub("index concurrently ", index.statement, count=1)
    return f"{in_schema(made, schema)};"
