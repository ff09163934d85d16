"""``tailrace db``: the schema of the database."""

from __future__ import annotations

import typer

from tailrace.cli.output import Json, print_json, run
from tailrace.opening import open_database
from tailrace.settings import load_settings
from tailrace.store.migrate import SchemaStatus, schema_status
from tailrace.store.migrate import upgrade as upgrade_schema

commands = typer.Typer(no_args_is_help=True)


@commands.command()
def upgrade(json: Json = False) -> None:
    """Create the tables, or bring them to the version that is needed.

    Does nothing when they have it.
    """
    applied = run(_upgrade())
    if json:
        print_json({"applied": applied})
    else:
        typer.echo("\n".join(f"applied {name}" for name in applied) or "nothing to do: the schema is current")


@commands.command()
def status(json: Json = False) -> None:
    """Print which version the tables have, and which is needed.

    Exit 1 unless they are the same.
    """
    schema, found = run(_status())
    if json:
        print_json({"schema": schema, "found": found.found, "needed": found.needed, "state": found.state})
    else:
        typer.echo(f"schema {schema!r}: version {found.found}, needed {found.needed}: {found.state}")
    raise typer.Exit(0 if found.state == "current" else 1)


@commands.command()
def url(json: Json = False) -> None:
    """Print the URL of the database, password included.

    It is made for `psql "$(tailrace db url)"`. The embedded Postgres answers while some Tailrace process uses it.
    """
    found = run(_url())
    if json:
        print_json({"url": found})
    else:
        typer.echo(found)


async def _url() -> str:
    async with open_database(load_settings()) as database:
        return database.url


async def _upgrade() -> list[str]:
    async with open_database(load_settings()) as database:
        return await upgrade_schema(database)


async def _status() -> tuple[str, SchemaStatus]:
    async with open_database(load_settings()) as database:
        return database.schema, await schema_status(database)
