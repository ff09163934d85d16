"""The commands put together, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from tailrace import __version__
from tailrace.errors import SettingsError, TailraceError, UsageError

# Each command, in the order of the help, and its module: one that has `commands` is a group.
COMMANDS = {
    "demo": "demo",
    "serve": "serve",
    "db": "database",
    "runs": "runs",
    "outbox": "outbox",
    "doctor": "doctor",
    "archive": "archive",
    "purge": "purge",
    "keys": "keys",
    "schema": "schema",
    "bench": "bench",
}
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main() -> None:
    """Run the command line and exit."""
    try:
        _commands(next((word for word in sys.argv[1:] if not word.startswith("-")), ""))()
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


def _commands(chosen: str) -> typer.Typer:
    """Return the command line with the chosen command, or with all when it is none of them.

    Each imports what it needs, which for some is a web server and a database driver; so only the one is imported.
    """
    cli = typer.Typer(
        name="tailrace",
        help="Durable, resumable event streams for AI-agent runs, on Postgres.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    cli.callback()(_options)
    for name in [chosen] if chosen in COMMANDS else COMMANDS:
        _add(cli, name)
    return cli


def _add(cli: typer.Typer, name: str) -> None:
    module = import_module(f"tailrace.cli.{COMMANDS[name]}")
    if hasattr(module, "commands"):
        cli.add_typer(module.commands, name=name)
    else:
        cli.command(name, epilog=getattr(module, "EPILOG", None))(getattr(module, name))


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tailrace {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Durable, resumable event streams for AI-agent runs, on Postgres."""


def _fail(error: TailraceError, code: int) -> None:
    typer.echo(f"tailrace: {error}", err=True)
    sys.exit(code)
