"""What ``--help`` says, of every command."""

from __future__ import annotations

import re

import pytest
from typer.core import TyperCommand, TyperGroup
from typer.testing import CliRunner

from tailrace.cli.main import COMMANDS, command_line, load

WIDTH = 80


def helped(*words: str) -> str:
    done = CliRunner().invoke(command_line(), [*words, "--help"], prog_name="tailrace", env={"COLUMNS": str(WIDTH)})
    assert done.exit_code == 0, done.output
    return done.output


def groups() -> list[str]:
    return [name for name in COMMANDS if isinstance(load(name), TyperGroup)]


def test_the_help_lists_every_command_with_what_it_is_for_in_order() -> None:
    """On one line each, nothing cut."""
    listed = re.findall(r"^  (\w+) {2,}(\S.*)$", helped().partition("Commands:")[2], re.MULTILINE)
    assert listed == [(name, summary) for name, (_, summary) in COMMANDS.items()]


@pytest.mark.parametrize("name", groups())
def test_a_group_lists_its_commands_and_cuts_no_sentence(name: str) -> None:
    """A newcomer chooses by these lines."""
    group = load(name)
    assert isinstance(group, TyperGroup)
    text = helped(name)
    assert COMMANDS[name][1] in text
    assert "..." not in text.partition("Commands:")[2]
    for command in group.commands:
        assert re.search(rf"^  {command} {{2,}}[A-Z]", text, re.MULTILINE), command


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_is_in_one_voice(name: str) -> None:
    """A sentence first; every option and argument a sentence; values named in capitals, not by their types."""
    loaded = load(name)
    commands = loaded.commands.values() if isinstance(loaded, TyperGroup) else [loaded]
    for command in commands:
        assert isinstance(command, TyperCommand)
        first = (command.help or "").partition("\n")[0]
        assert re.fullmatch(r"[A-Z].*[.]", first), (command.name, first)
        for parameter in command.params:
            if getattr(parameter, "hidden", False):
                continue
            words = getattr(parameter, "help", None) or ""
            assert re.fullmatch(r"[A-Z].*[.]", words, re.DOTALL), (command.name, parameter.name, words)
    text = helped(name) if not isinstance(loaded, TyperGroup) else "".join(helped(name, c) for c in loaded.commands)
    assert not re.findall(r"^ +--[a-z-]+ <", text, re.MULTILINE)


def test_a_command_that_does_not_exist_is_a_usage_error_with_the_nearest_name() -> None:
    """Before anything is imported."""
    done = CliRunner().invoke(command_line(), ["doctr"])
    assert done.exit_code == 2
    assert "Did you mean 'doctor'?" in done.output
