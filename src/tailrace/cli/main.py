"""The commands put together, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from tailrace import __version__
from tailrace.cli import archive, database, demo, keys, outbox, purge, runs, schema, serve
from tailrace.errors import SettingsError, TailraceError, UsageError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

cli = typer.Typer(
    name="tailrace",
    help="Durable, resumable event streams for AI-agent runs, on Postgres.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.command("demo")(demo.demo)
cli.command("serve", epilog=serve.EPILOG)(serve.serve)
cli.add_typer(database.commands, name="db")
cli.add_typer(runs.commands, name="runs")
cli.add_typer(outbox.commands, name="outbox")
cli.add_typer(archive.commands, name="archive")
cli.command("purge")(purge.purge)
cli.add_typer(keys.commands, name="keys")
cli.command("schema")(schema.schema)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tailrace {__version__}")
        raise typer.Exit


@cli.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Durable, resumable event streams for AI-agent runs, on Postgres."""


def main() -> None:
    """Run the command line and exit."""
    try:
        cli()
    except (SettingsError, UsageError) as error:
        _fail(error, EXIT_USAGE)
    except TailraceError as error:
        _fail(error, EXIT_FAILED)
    except BrokenPipeError:
        # Whoever read our output has had enough; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _fail(error: TailraceError, code: int) -> None:
    typer.echo(f"tailrace: {error}", err=True)
    sys.exit(code)
