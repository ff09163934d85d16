"""``tailrace outbox``: what is persisted and not yet published."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tailrace.cli.numbers import whole
from tailrace.cli.output import Json, print_json, print_table, run
from tailrace.opening import open_database
from tailrace.settings import load_settings
from tailrace.store.migrate import require_current
from tailrace.store.outbox import Outbox

commands = typer.Typer(no_args_is_help=True)


@commands.callback()
def group() -> None:
    """See what is persisted and not yet published."""


@commands.command()
def status(
    limit: Annotated[
        int, typer.Option("--limit", parser=whole(1, 1000), metavar="N", help="How many runs to print.")
    ] = 10,
    json: Json = False,
) -> None:
    """Print the backlog of all runs, and the runs with the largest."""
    found = run(_status(limit))
    if json:
        print_json(found)
        return
    oldest = found["oldestUnpublishedSeconds"]
    age = f", the oldest {oldest:.3f} s old" if oldest is not None else ""
    typer.echo(f"{found['backlog']} events wait{age}")
    if found["runs"]:
        rows = [(of["runId"], of["nextSeq"], of["lastSeq"], of["backlog"]) for of in found["runs"]]
        print_table(("run", "next seq", "last seq", "backlog"), rows, empty="")


async def _status(limit: int) -> dict[str, Any]:
    async with open_database(load_settings()) as database:
        await require_current(database)
        outbox = Outbox(database)
        backlog, oldest = await outbox.backlog()
        laggards = await outbox.laggards(limit)
    return {
        "backlog": backlog,
        "oldestUnpublishedSeconds": oldest,
        "runs": [
            {"runId": of.run_id, "nextSeq": of.next_seq, "lastSeq": of.last_seq, "backlog": of.backlog}
            for of in laggards
        ],
    }
