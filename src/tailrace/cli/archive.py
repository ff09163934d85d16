"""``tailrace archive``: finished runs that leave Postgres, and come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailrace.archive.opening import open_vault
from tailrace.cli.numbers import whole
from tailrace.cli.output import Json, print_json, print_table, run
from tailrace.errors import ArchiveMismatch, SettingsError
from tailrace.exporters.logs import LogExporter
from tailrace.opening import open_database
from tailrace.settings import Settings, load_settings
from tailrace.store.archives import Archives, Held, holder_name
from tailrace.store.database import Database
from tailrace.store.migrate import require_current
from tailrace.store.runs import Runs
from tailrace.telemetry import Telemetry

if TYPE_CHECKING:
    from tailrace.archive.archiver import Archived, Archiver
    from tailrace.archive.vault import Vault

commands = typer.Typer(no_args_is_help=True)
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="Id of the run.")]


@dataclass(frozen=True, slots=True)
class Opened:
    """What a command works with."""

    settings: Settings
    database: Database
    archives: Archives
    vault: Vault | None

    def archiver(self) -> Archiver:
        """Return what archives and restores; raise ``SettingsError`` when nobody said where."""
        if self.vault is None:
            raise SettingsError(
                "TAILRACE_ARCHIVE_URL is not set: set it to where archived events shall lie, as "
                "/var/lib/tailrace/archive or s3://bucket/tailrace"
            )
        from tailrace.archive.archiver import Archiver  # noqa: PLC0415 - optional; there is a vault, so it is installed

        return Archiver(
            self.archives, self.vault, Telemetry((LogExporter(level=self.settings.log_level, log_events=False),))
        )


@asynccontextmanager
async def opened() -> AsyncIterator[Opened]:
    """Open the database and the archive that the settings name."""
    settings = load_settings()
    vault = open_vault(settings.archive_url) if settings.archive_url is not None else None
    try:
        async with open_database(settings) as database:
            await require_current(database)
            yield Opened(settings, database, Archives(database, holder_name()), vault)
    finally:
        if vault is not None:
            vault.close()


@commands.command("run")
def run_archive(
    older_than: Annotated[
        int | None,
        typer.Option(
            "--older-than",
            parser=whole(0, 36_500),
            metavar="DAYS",
            help="Archive what ended more than so many days ago; TAILRACE_RETENTION_DAYS when left out.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Archive what ended long enough ago.

    Runs are copied to the archive and the copy is read back; only then their events are deleted from Postgres, all but
    the last of each. Exit 1 when rows of some runs are missing; those are left alone.
    """
    done, gaps = run(_archive(older_than))
    if json:
        print_json({"runs": done.runs, "events": done.events, "rowsDeleted": done.rows_deleted, "notArchivable": gaps})
    else:
        typer.echo(f"archived {done.runs} runs with {done.events} events; deleted {done.rows_deleted} rows")
    if gaps:
        raise ArchiveMismatch(f"rows are missing of {', '.join(gaps[:10])}: not archived; see the doctor")


@commands.command("list")
def list_archived(
    limit: Annotated[int, typer.Option("--limit", parser=whole(1, 1000), metavar="N", help="How many to print.")] = 50,
    after: Annotated[
        str, typer.Option("--after", metavar="RUN_ID", help="Begin after this run, the last of the page before.")
    ] = "",
    json: Json = False,
) -> None:
    """List the runs that have a copy in the archive, by id."""
    found = run(_list(after, limit))
    more = found[limit - 1].run_id if len(found) > limit else None
    found = found[:limit]
    if json:
        print_json({"runs": [_view(held) for held in found], "nextAfter": more})
        return
    rows = [
        (held.run_id, held.events, _time(held.archived_at), _time(held.restored_at) or "-", held.object)
        for held in found
    ]
    print_table(("run", "events", "archived", "restored", "object"), rows, empty="nothing is archived")
    if more is not None:
        typer.echo(f"more with --after {more}")


@commands.command()
def restore(run_id: RunId, json: Json = False) -> None:
    """Put a run's events back into Postgres, exactly as they were.

    Does nothing when they are there. The run is archived again once the retention, counted from now, is over.
    """
    restored = run(_restore(run_id))
    if json:
        print_json({"runId": run_id, "archived": restored is not None, "eventsRestored": restored or 0})
    elif restored is None:
        typer.echo(f"run {run_id} is not archived: its events are in Postgres")
    else:
        typer.echo(f"restored {restored} events of run {run_id}")


async def _archive(older_than: int | None) -> tuple[Archived, list[str]]:
    async with opened() as parts:
        archiver = parts.archiver()
        days = parts.settings.retention_days if older_than is None else older_than
        done = await archiver.archive_once(days)
        while done.more:
            done += await archiver.archive_once(days)
    return done, sorted(archiver.gaps)


async def _list(after: str, limit: int) -> list[Held]:
    async with opened() as parts:
        return list(await parts.archives.list(after, limit + 1))


async def _restore(run_id: str) -> int | None:
    async with opened() as parts:
        await Runs(parts.database).get(run_id)
        return await parts.archiver().restore(run_id)


def _view(held: Held) -> dict[str, Any]:
    return {
        "runId": held.run_id,
        "object": held.object,
        "firstRow": held.first_row,
        "events": held.events,
        "sha256": held.sha256.hex(),
        "archivedAt": _time(held.archived_at),
        "restoredAt": _time(held.restored_at),
    }


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment is not None else None
