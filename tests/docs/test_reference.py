"""What users and operators meet has its entry in docs/reference, with words of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from typer.core import TyperArgument, TyperCommand, TyperGroup

from scripts.reference import commands, endpoints, errors, logs
from scripts.reference.metrics import name_of
from scripts.reference.page import Wordless, code, summary_of, words
from tailrace import errors as tree
from tailrace import telemetry
from tailrace.cli.main import COMMANDS, load
from tailrace.exporters.prometheus import PrometheusExporter
from tailrace.http.problems import BELOW
from tailrace.settings import Settings
from tailrace.trace import Span

ROOT = Path(__file__).parent.parent.parent
REFERENCE = ROOT / "docs" / "reference"
EMPTY_WORDS_MIN = 5


def read(page: str) -> str:
    return (REFERENCE / page).read_text("utf-8")


def rows(page: str) -> dict[str, list[str]]:
    """Every row of the page's tables by its first cell."""
    cells = [line.strip("| ").split(" | ") for line in read(page).splitlines() if line.startswith("| ")]
    return {row[0].strip("`"): row for row in cells}


def has_words(row: list[str]) -> bool:
    return len(row[-1].strip(" |")) >= EMPTY_WORDS_MIN


@pytest.mark.parametrize("field", list(Settings.model_fields))
def test_every_setting_says_what_it_is(field: str) -> None:
    """By the name that stands in the environment."""
    assert has_words(rows("settings.md")[f"TAILRACE_{field.upper()}"])


@pytest.mark.parametrize("name", [name_of(metric) for metric in PrometheusExporter().registry.collect()])
def test_every_metric_says_what_it_is(name: str) -> None:
    """By the name that Prometheus is asked for."""
    assert has_words(rows("metrics.md")[name])


def test_no_metric_is_kept_elsewhere() -> None:
    """The registry of the exporter is all that is served."""
    named = {
        name
        for path in (ROOT / "src").rglob("*.py")
        for name in re.findall(r'(?:Counter|Gauge|Histogram)\(\s*"(tailrace_\w+)"', path.read_text("utf-8"))
    }
    assert named
    assert named == {metric.name for metric in PrometheusExporter().registry.collect()}


def every_command() -> Iterator[tuple[str, TyperCommand]]:
    for name in COMMANDS:
        yield from commands.commands_of(name, load(name))


@pytest.mark.parametrize(("path", "command"), list(every_command()))
def test_every_command_and_option_says_what_it_does(path: str, command: TyperCommand) -> None:
    """In a section of its own, with a row for each argument and option."""
    section = re.search(rf"^##+ {path}\n(.*?)(?=^##|\Z)", read("commands.md"), re.MULTILINE | re.DOTALL)
    assert section is not None
    assert re.search(r"^```\n\n[A-Z].{10}", section[1], re.MULTILINE)
    for of in commands.parameters_of(command):
        name = of.metavar or of.name if isinstance(of, TyperArgument) else of.opts[0]
        row = re.search(rf"^\| (?:`|<code>){re.escape(name)}\b.* \| (.+) \|$", section[1], re.MULTILINE)
        assert row is not None, name
        assert len(row[1]) >= EMPTY_WORDS_MIN


def test_every_group_of_commands_is_there() -> None:
    """With the summary that `tailrace --help` prints."""
    for name, (_, summary) in COMMANDS.items():
        if isinstance(load(name), TyperGroup):
            assert f"## tailrace {name}\n\n{summary}\n" in read("commands.md")


@pytest.mark.parametrize("kind", errors.every_error(), ids=lambda kind: kind.__name__)
def test_every_error_says_what_it_is(kind: type[tree.TailraceError]) -> None:
    """Those of the tree, and those that stand beside the one part that raises them."""
    assert has_words(rows("errors.md")[kind.__name__])


def test_the_drawing_of_the_tree_is_the_tree() -> None:
    """The docstring of errors.py shows each class under its parent."""
    branches: list[str] = []
    drawn = {}
    for line in (tree.__doc__ or "").splitlines():
        if found := re.match(r"^    ((?:[│ ]   )*)(?:[├└]── )?([A-Z]\w+)", line):
            depth = len(found[1]) // 4 + ("──" in line)
            branches[depth:] = [found[2]]
            drawn[found[2]] = branches[depth - 1] if depth else "Exception"
    classes = [of for of in vars(tree).values() if isinstance(of, type) and issubclass(of, Exception)]
    assert drawn == {of.__name__: of.__mro__[1].__name__ for of in classes}


def test_every_problem_is_there() -> None:
    """Whatever the code gives as the end of a type, and every status that errors are mapped to."""
    listed = {(status, kind.strip("`")) for status, kind, _ in errors.problems()}
    kinds = {kind for _, kind in listed}
    written = [path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py")]
    named = {kind for text in written for kind in re.findall(r'\bkind="([a-z-]+)"', text)}
    assert "not-ready" in named
    assert named | set(BELOW.values()) <= kinds
    assert listed >= {(str(int(status)), kind) for status, kind in BELOW.items()}
    for error in errors.NOT_ANSWERED:
        assert errors.status_of(error) is not None
    for status, kind, when in errors.problems():
        assert f"| {status} | {kind} | {when} |" in read("errors.md")


def test_every_endpoint_parameter_and_answer_says_what_it_is() -> None:
    """The OpenAPI document has the words, and the page has them from there."""
    page = read("endpoints.md")
    calls = [(m.upper(), p, of) for p, item in endpoints.document()["paths"].items() for m, of in item.items()]
    assert len(calls) >= 10
    for method, path, operation in calls:
        assert f"## {method} {path}\n" in page
        assert operation["summary"]
        assert operation["description"]
        section = page.partition(f"## {method} {path}\n")[2].partition("\n## ")[0]
        for parameter in operation.get("parameters", []):
            assert re.search(rf"^\| `{re.escape(parameter['name'])}` \| .{{5,}} \|$", section, re.MULTILINE)
        for status in operation["responses"]:
            assert re.search(rf"^\| {status} \| .{{2,}} \|$", section, re.MULTILINE)


def test_every_field_of_the_answers_says_what_it_is() -> None:
    """And every shape that the page links to is there."""
    page = read("endpoints.md")
    schemas = endpoints.document()["components"]["schemas"]
    for name in endpoints.SHAPES:
        section = page.partition(f"### {name}\n")[2].partition("\n##")[0]
        for field in schemas[name]["properties"]:
            assert re.search(rf"^\| `{field}` \| .* \| .{{5,}} \|$", section, re.MULTILINE), (name, field)
    assert {name.lower() for name in endpoints.SHAPES} >= set(re.findall(r"\(#(\w+)\)", page))


@pytest.mark.parametrize("kind", [of for of in get_args(telemetry.Happening) if of is not Span])
def test_every_happening_that_is_logged_is_there_with_its_fields(kind: type) -> None:
    """None is written under a name that the page does not have."""
    listed = rows("logs.md")
    written = [line for complete in (False, True) for line in logs.written(kind, complete=complete)]
    assert written
    for line in written:
        row = listed[line["event"]]
        assert has_words(row)
        assert line["level"] in row[1]
        for field in line.keys() - {"timestamp", "level", "event", "run_id", "trace_id", "span_id"}:
            assert f"`{field}`" in row[2], (field, [of.name for of in fields(kind)])


def test_what_has_no_words_is_not_written() -> None:
    """An empty help, description or docstring stops `make docs`, and so the check."""

    class Silent(tree.TailraceError):
        pass

    with pytest.raises(Wordless, match="Silent"):
        summary_of(Silent)
    for nothing in ("", "  ", None):
        with pytest.raises(Wordless, match="--url"):
            words(nothing, "--url")


def test_bars_do_not_end_a_cell() -> None:
    """In code a bar is written as an entity, for backticks do not protect it in a table."""
    assert code("0|1") == "<code>0&#124;1</code>"
    assert words("must be ``0|1``, or none | all", "it") == "must be <code>0&#124;1</code>, or none &#124; all"
