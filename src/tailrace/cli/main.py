"""The commands put together, and the one place where errors become exit codes.

A command's module is imported when the command is used, for some import a web server and a database driver, which takes
longer than most commands do; the help of ``tailrace`` and completion in a shell need only the table below.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from tailrace import __version__
from tailrace.errors import SettingsError, TailraceError, UsageError

# Each command in the order of the help, its module, and what it is for. A module that has `commands` is a group.
COMMANDS = {
    "demo": ("demo", "Digest a folder, and see a stream cut and resumed."),
    "serve": ("serve", "Serve the API, execute runs and publish their events."),
    "db": ("database", "Create, upgrade and look at Tailrace's tables."),
    "runs": ("runs", "Start, list, show, watch and cancel runs."),
    "outbox": ("outbox", "See what is persisted and not yet published."),
    "doctor": ("doctor", "Find what is wrong, and what is safe to do about it."),
    "archive": ("archive", "Move ended runs out of Postgres, list them, bring one back."),
    "purge": ("purge", "Remove ended runs, or a tenant, with every trace."),
    "keys": ("keys", "Make, list and revoke API keys."),
    "schema": ("schema", "Print the JSON Schema of the event."),
    "bench": ("bench", "Measure Tailrace on this machine and this database."),
}
SUMMARY = "Durable, resumable event streams for AI-agent runs, on Postgres."
EPILOG = (
    "Settings come from the environment or a .env file; `tailrace serve --help` lists them. "
    "Exit codes: 0 done, 1 failed, 2 wrong usage or a bad setting."
)
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main() -> None:
    """Run the command line and exit."""
    try:
        command_line()()
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


def command_line() -> typer.Typer:
    """Return the command line; its commands are not imported yet."""
    cli = typer.Typer(
        name="tailrace",
        cls=_Commands,
        help=SUMMARY,
        epilog=EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    cli.callback()(_options)
    return cli


def load(name: str) -> TyperCommand | TyperGroup:
    """Import a command of the table and return it."""
    place, summary = COMMANDS[name]
    module = import_module(f"tailrace.cli.{place}")
    alone = typer.Typer(rich_markup_mode=None)
    if hasattr(module, "commands"):
        alone.add_typer(module.commands, name=name, help=summary)
    else:
        alone.command(name, epilog=getattr(module, "EPILOG", None))(getattr(module, name))
    found = get_group(alone).commands[name]
    assert isinstance(found, TyperCommand | TyperGroup)  # noqa: S101 - Typer makes no others
    return found


class _Commands(TyperGroup):
    """Names and summaries at once, the commands themselves when one is used."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=summary) for name, (_, summary) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that is used, imported."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name is not None else command, rest


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tailrace {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _fail(error: TailraceError, code: int) -> None:
    typer.echo(f"tailrace: {error}", err=True)
    sys.exit(code)
