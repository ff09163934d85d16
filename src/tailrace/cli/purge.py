"""``tailrace purge``: the right to be forgotten."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.cli.archive import opened
from tailrace.cli.output import Json, print_json, run
from tailrace.errors import UsageError

if TYPE_CHECKING:
    from tailrace.archive.purge import Purged


def purge(
    run_ids: Annotated[list[str] | None, typer.Argument(metavar="RUN_ID", help="Ids of the runs to remove.")] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="TENANT", help="Remove all runs of this tenant.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    json: Json = False,
) -> None:
    """Remove ended runs, or all runs of a tenant, with every trace of them.

    They go from Postgres and from the archive, for ever. Runs that have not ended are refused: cancel them first.
    """
    named = list(dict.fromkeys(run_ids or []))
    if bool(named) == (tenant is not None):
        raise UsageError("name the runs to purge, or --tenant, and not both")
    what = f"all runs of tenant {tenant!r}" if tenant is not None else f"{len(named)} runs"
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"this removes {what} for ever; say so with --yes")
        typer.confirm(f"Remove {what} for ever?", abort=True)
    done = run(_purge(named, tenant))
    if json:
        print_json({"runs": done.runs, "rowsDeleted": done.rows_deleted, "objects": done.objects})
    else:
        typer.echo(f"removed {done.runs} runs, {done.rows_deleted} rows, and what {done.objects} objects held of them")


async def _purge(run_ids: list[str], tenant: str | None) -> Purged:
    async with opened() as parts:
        from tailrace.archive.purge import Purger  # noqa: PLC0415 - needs what is optional

        return await Purger(parts.archives, parts.vault).purge(run_ids, tenant)
