"""Every command, argument and option, from what ``--help`` is printed from."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from scripts.reference.page import NOTE, code, table, words
from tailrace.cli.main import COMMANDS, load

INTRODUCTION = (
    "`tailrace --help`, and `--help` after any command, say the same. Exit codes: 0 done, 1 failed, 2 wrong usage or a "
    "bad setting. [Settings](settings.md) come from the environment or a `.env` file. Every command that prints data "
    "takes `--json`.\n"
)


def page() -> str:
    """Return the page."""
    parts = [f"{NOTE}# Commands\n\n{INTRODUCTION}"]
    for name, (_, summary) in COMMANDS.items():
        loaded = load(name)
        if isinstance(loaded, TyperGroup):
            parts.append(f"## tailrace {name}\n\n{words(summary, name)}\n")
        parts += [_section(path, command) for path, command in commands_of(name, loaded)]
    return "\n".join(parts)


def commands_of(name: str, loaded: TyperCommand | TyperGroup) -> Iterator[tuple[str, TyperCommand]]:
    """Yield each command under ``name`` with the words that call it."""
    if isinstance(loaded, TyperCommand):
        yield f"tailrace {name}", loaded
        return
    for inner, command in loaded.commands.items():
        assert isinstance(command, TyperCommand)  # noqa: S101 - there are no groups in groups
        yield f"tailrace {name} {inner}", command


def parameters_of(command: TyperCommand) -> list[TyperArgument | TyperOption]:
    """Return what the command takes, without what only Tailrace itself passes to it."""
    return [
        of for of in command.params if isinstance(of, TyperArgument | TyperOption) and not getattr(of, "hidden", False)
    ]


def _section(path: str, command: TyperCommand) -> str:
    arguments = [_usage(of) for of in parameters_of(command) if isinstance(of, TyperArgument)]
    level = "###" if path.count(" ") > 1 else "##"
    words(command.help, path)
    text = inspect.cleandoc(command.help or "")
    rows = [_row(path, of) for of in parameters_of(command)]
    return (
        f"{level} {path}\n\n```sh\n{' '.join([path, '[OPTIONS]', *arguments])}\n```\n\n{text}\n\n"
        f"{table(('argument or option', 'default', 'meaning'), rows)}"
    )


def _usage(argument: TyperArgument) -> str:
    name = argument.metavar or argument.name
    return f"{name if argument.required else f'[{name}]'}{'...' if argument.nargs < 0 else ''}"


def _row(path: str, of: TyperArgument | TyperOption) -> tuple[str, str, str]:
    meaning = words(of.help, f"{path} {of.name}")
    if isinstance(of, TyperArgument):
        return code(of.metavar or of.name), "required" if of.required else "", meaning
    name = of.opts[0] if of.is_flag else f"{of.opts[0]} {of.metavar}"
    return code(name), "required" if of.required else _default(of.default), meaning


def _default(value: Any) -> str:
    return "" if value is None or value is False else code(str(value))
