"""The doctor: every check of the runbook in its order, over what the caller has opened.  It changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import asyncpg

from tailrace.bus.bus import Bus
from tailrace.errors import DatabaseReadOnly, DatabaseUnavailable, TailraceError
from tailrace.store.database import Database
from tailrace.store.doorbell import Doorbell
from tailrace.store.health import Figures, Health
from tailrace.upkeep.finding import Code, Finding
from tailrace.upkeep.lines import examine_bus, examine_wakeups
from tailrace.upkeep.runs import Bounds, examine_runs
from tailrace.upkeep.schema import examine_indexes, examine_schema


@dataclass(slots=True)
class Diagnosis:
    """What was found so far, and the figures of the run that was asked for."""

    findings: list[Finding] = field(default_factory=list)
    figures: Figures | None = None

    @property
    def walkable(self) -> bool:
        """Whether a canary could be started: the database takes writes and its tables fit."""
        return not any(f.code in (Code.DATABASE_UNREACHABLE, Code.SCHEMA_BEHIND) for f in self.findings)


async def examine(
    database: Database, doorbell: Doorbell, bus: Bus, *, bus_url: str, bounds: Bounds, run_id: str | None
) -> Diagnosis:
    """Examine what was opened; the doorbell and the bus are kept going by duties of the caller.

    :raises RunNotFound: there is no run ``run_id``.
    """
    diagnosis = Diagnosis()
    health = Health(database)
    try:
        diagnosis.findings += await examine_wakeups(doorbell)
        diagnosis.findings += await examine_bus(bus, bus_url)
        await database.require_writable()
        if behind := await examine_schema(database):
            diagnosis.findings += behind
            return diagnosis
        diagnosis.findings += await examine_indexes(database, health)
        examined = await examine_runs(health, bounds, run_id)
    except DatabaseReadOnly as error:
        diagnosis.findings.append(unreachable(error))
    except DatabaseUnavailable as error:
        diagnosis.findings.append(unreachable(error))
    except asyncpg.PostgresError as error:
        diagnosis.findings.append(altered(database, error))
    else:
        diagnosis.findings += examined.findings
        diagnosis.figures = examined.figures
    return diagnosis


def unreachable(error: TailraceError) -> Finding:
    """Return the finding for a database that does not answer, or takes no writes."""
    return Finding(
        Code.DATABASE_UNREACHABLE,
        "critical",
        str(error),
        "restore Postgres, or correct TAILRACE_DATABASE_URL; everything goes on by itself once it answers",
    )


def altered(database: Database, error: asyncpg.PostgresError) -> Finding:
    """Return the finding for tables that a statement does not fit, whatever version they claim to have."""
    return Finding(
        Code.SCHEMA_BEHIND,
        "critical",
        f"the tables of the schema {database.schema!r} are not those that its version says: {error}",
        "compare them with the migrations, and restore what was changed by hand; ask engineering before anything else",
    )
