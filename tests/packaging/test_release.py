"""What refuses a release.  The whole of ``make release`` takes minutes and is run by hand: docs/releasing.md."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import tailrace
from scripts.release.bill import require_complete, require_no_trace
from scripts.release.contents import inspect_sdist, inspect_wheel
from scripts.release.gates import (
    VERSION_FILE,
    released_versions,
    require_changelog,
    require_clean_tree,
    require_new_version,
    version_of,
)
from scripts.release.interpreters import find_python
from scripts.release.licences import Licence, expression_of, is_allowed, licence_list, require_allowed
from scripts.release.refusal import ReleaseRefused
from scripts.release.trying import require_imports

ROOT = Path(__file__).parent.parent.parent
VERSION = tailrace.__version__
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
GOOD = "# Changelog\n\n## Unreleased\n\n## 1.2.0 - 2026-11-21\n\n### Added\n\n- A thing.\n\n## 1.1.0 - 2026-10-01\n"
Files = dict[str, bytes]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small repository with one commit."""
    folder = tmp_path / "repository"
    (folder / "src" / "tailrace").mkdir(parents=True)
    (folder / "src" / "tailrace" / "__init__.py").write_text('__version__ = "1.2.0"\n')
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def git(folder: Path, *words: str) -> str:
    name = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *name, *words], cwd=folder, check=True, capture_output=True, text=True, env=environment
    )
    return done.stdout


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "a change")


def test_there_is_one_version() -> None:
    """No other file states it, so none can be forgotten; where it is told, other tests look."""
    assert version_of(ROOT) == VERSION
    stated = re.compile(rf"(?<![\w.]){re.escape(VERSION)}(?![\w.])")
    texts = [ROOT / "README.md", ROOT / "pyproject.toml", ROOT / "Makefile"]
    texts += [path for path in (ROOT / "src").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert [path for path in texts if stated.search(path.read_text("utf-8"))] == [ROOT / VERSION_FILE]


def test_the_changelog_tells_of_no_version_that_is_not_there_yet() -> None:
    """Its headings are Unreleased, or versions with their day, newest first, none beyond the code's own."""
    versions = [tuple(map(int, re.findall(r"\d+", version)[:3])) for version in released_versions(CHANGELOG)]
    assert versions == sorted(set(versions), reverse=True)
    assert all(version <= tuple(map(int, re.findall(r"\d+", VERSION)[:3])) for version in versions)


def test_a_changelog_that_opens_with_the_version_passes() -> None:
    require_changelog(GOOD, "1.2.0")
    require_changelog(GOOD.replace("## 1.2.0 -", "## [1.2.0] -"), "1.2.0")
    assert released_versions(GOOD) == ["1.2.0", "1.1.0"]


@pytest.mark.parametrize(
    ("text", "version", "says"),
    [
        (GOOD, "1.3.0", "has version 1.3.0, and CHANGELOG.md opens with `## 1.2.0 - 2026-11-21`"),
        (GOOD, "1.1.0", "opens with `## 1.2.0"),
        ("# Changelog\n", "1.2.0", "opens with no version"),
        (GOOD.replace("- 2026-11-21", ""), "1.2.0", "YYYY-MM-DD"),
        (GOOD.replace("11-21", "13-21"), "1.2.0", "no day of the calendar"),
        (GOOD.replace("- A thing.", ""), "1.2.0", "says nothing under"),
        (GOOD.replace("Unreleased\n", "Unreleased\n\n- Kept back.\n"), "1.2.0", "has lines under `## Unreleased`"),
    ],
)
def test_a_version_without_its_heading_is_refused(text: str, version: str, says: str) -> None:
    """The error says which of the two is to be mended, and how."""
    with pytest.raises(ReleaseRefused, match=re.escape(says)):
        require_changelog(text, version)


def test_a_tree_with_changes_is_refused(repository: Path) -> None:
    """Changed and new files alike are named."""
    require_clean_tree(repository)
    (repository / "src" / "tailrace" / "__init__.py").write_text("changed\n")
    (repository / "new.py").touch()
    with pytest.raises(ReleaseRefused, match="DIRTY=1") as refused:
        require_clean_tree(repository)
    assert "M src/tailrace/__init__.py" in str(refused.value)
    assert "?? new.py" in str(refused.value)


def test_a_version_that_was_released_as_something_else_is_refused(repository: Path) -> None:
    """The same commit may be built again."""
    require_new_version(repository, "1.2.0")
    git(repository, "tag", "v1.2.0")
    require_new_version(repository, "1.2.0")
    commit(repository)
    with pytest.raises(ReleaseRefused, match=r"the tag v1\.2\.0 is on"):
        require_new_version(repository, "1.2.0")


def test_the_command_says_why_not_and_builds_nothing(repository: Path) -> None:
    """A line or two on stderr, no traceback, exit code 1, no ``dist``: for a changed tree, then for the changelog."""
    shutil.copytree(ROOT / "scripts" / "release", repository / "scripts" / "release")
    (repository / "CHANGELOG.md").write_text(GOOD.replace("1.2.0", "1.1.9"))
    (repository / ".gitignore").write_text("__pycache__\n")
    for says in ("the tree is not clean", "opens with `## 1.1.9"):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTHON"))}
        command = [sys.executable, "-m", "scripts.release"]
        done = subprocess.run(command, cwd=repository, env=environment, check=False, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("release: ")
        assert says in done.stderr
        assert "Traceback" not in done.stderr
        commit(repository)
    assert not (repository / "dist").exists()


def unpacked(wheel: Path) -> Files:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(folder: Path, name: str, files: Files) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
    return path


def test_the_wheel_of_this_tree_passes(wheel: Path) -> None:
    inspect_wheel(wheel, ROOT, VERSION, machine_paths=[ROOT, Path.home()])


def add(name: str, text: bytes) -> Callable[[Files], object]:
    return lambda files: files.update({name: text})


def drop(name: str) -> Callable[[Files], object]:
    return lambda files: files.pop(name)


INFO = f"tailrace-{VERSION}.dist-info"
MIGRATION = "tailrace/store/migrations/0003_checks_on_insert.sql"


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (drop("tailrace/py.typed"), "py.typed is missing"),
        (drop(MIGRATION), f"{MIGRATION} is missing"),
        (drop("tailrace/store/sql/append.sql"), "tailrace/store/sql/append.sql is missing"),
        (drop("tailrace/http/console/files/main.js"), "tailrace/http/console/files/main.js is missing"),
        (drop(f"{INFO}/licenses/LICENSE"), "licenses/LICENSE is missing"),
        (add("tests/test_x.py", b""), "tests/test_x.py does not belong there"),
        (add("tailrace/__pycache__/app.cpython-311.pyc", b""), "app.cpython-311.pyc is no part of a release"),
        (add("tailrace/told.py", f"HERE = '{ROOT}/src'".encode()), f"told.py holds the machine's path {ROOT}/"),
        (add("tailrace/told.py", b"HERE = '/home/ann/src'"), "told.py holds the machine's path /home/ann/"),
        (add("tailrace/told.py", b"1"), "tailrace/told.py is not that of the sources"),
        (add("../evil.py", b""), "../evil.py leads out of the archive"),
        (add(f"{INFO}/METADATA", b"Name: tailrace\nVersion: 9.9\n\n"), f"Version: 9.9 and not {VERSION}"),
        (
            add(f"{INFO}/METADATA", b"Name: tailrace\nRequires-Dist: x @ file:///x\n\n"),
            "the dependency 'x @ file:///x' is no index's",
        ),
    ],
)
def test_a_broken_wheel_is_refused(wheel: Path, tmp_path: Path, harm: Callable[[Files], object], says: str) -> None:
    """Each with the name of what is wrong with it."""
    files = unpacked(wheel)
    harm(files)
    with pytest.raises(ReleaseRefused, match=re.escape(says)):
        inspect_wheel(packed(tmp_path, wheel.name, files), ROOT, VERSION, machine_paths=[ROOT])


def test_an_sdist_without_migrations_tests_or_licence_is_refused(tmp_path: Path) -> None:
    """All that is missing is said at once."""
    path = tmp_path / f"tailrace-{VERSION}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in {
            "PKG-INFO": b"Name: tailrace\n\n",
            "src/tailrace/py.typed": b"",
            "a/.git/config": b"",
        }.items():
            member = tarfile.TarInfo(f"tailrace-{VERSION}/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    with pytest.raises(ReleaseRefused) as refused:
        inspect_sdist(path, ROOT, VERSION)
    for wanted in (f"src/{MIGRATION} is missing", "tests/ is missing", "LICENSE is missing", ".git/config is no part"):
        assert wanted in str(refused.value)


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("GPL-3.0-only OR MIT", True),
        ("LGPL-2.1-or-later", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-3.0-only", False),
        ("MIT AND GPL-3.0-only", False),
        ("MIT AND (AGPL-3.0-only OR SSPL-1.0)", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("(MIT", False),
        ("MIT GPL-3.0-only", False),
        ("MIT AND", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_a_licence_expression_is_allowed_when_allowed_ones_meet_it(expression: str, allowed: bool) -> None:
    """OR leaves the choice, AND does not, and what cannot be read is refused."""
    assert is_allowed(expression) is allowed


@pytest.mark.parametrize(
    ("expression", "field", "classifiers", "means"),
    [
        ("MIT", "GPL", ["License :: OSI Approved :: BSD License"], "MIT"),
        (None, "Apache 2.0", [], "Apache-2.0"),
        (None, "3-Clause BSD License", [], "BSD-3-Clause"),
        (None, "Copyright (c) 2026\nAll rights …", ["License :: OSI Approved :: MIT License"], "MIT"),
        (
            None,
            None,
            [
                "License :: OSI Approved :: MIT License",
                "License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
            ],
            "MIT AND GNU-General-Public-License-v3-(GPLv3)",
        ),
        (None, None, ["Topic :: Internet"], "unknown"),
    ],
)
def test_old_metadata_is_understood(
    expression: str | None, field: str | None, classifiers: list[str], means: str
) -> None:
    assert expression_of(expression, field, classifiers) == means


def test_a_licence_that_is_not_allowed_is_refused_with_its_package() -> None:
    good = Licence("kind", "1.0", "MIT")
    require_allowed([good])
    with pytest.raises(ReleaseRefused, match=r"evil 2\.0: AGPL-3\.0-only") as refused:
        require_allowed([good, Licence("evil", "2.0", "AGPL-3.0-only")])
    assert "kind" not in str(refused.value)
    assert "| kind | 1.0 | MIT |" in licence_list([good], VERSION)


def test_papers_that_tell_of_the_machine_are_refused() -> None:
    """Its paths, its index, and files and hosts that nobody else has; public addresses pass."""
    require_no_trace("bill", '"https://pypi.org/project/x"', paths=[ROOT], hosts=["mirror.example"])
    for text in (f'"{ROOT}/src"', '"file:///x/y"', '"https://mirror.example/simple/x"', '"http://127.0.0.1:3141/x"'):
        with pytest.raises(ReleaseRefused, match="tells of the machine"):
            require_no_trace("bill", text, paths=[ROOT], hosts=["mirror.example"])


def test_a_bill_that_lacks_a_package_is_refused() -> None:
    bill = json.dumps({"components": [{"name": "kind"}], "metadata": {"component": {"name": "tailrace"}}})
    require_complete(bill, [Licence("kind", "1.0", "MIT"), Licence("tailrace", VERSION, "Apache-2.0")])
    with pytest.raises(ReleaseRefused, match=r"other 2\.0 is missing"):
        require_complete(bill, [Licence("other", "2.0", "MIT")])


def test_a_module_that_needs_more_than_the_base_is_refused() -> None:
    """Unless it is the one that an extra is for."""
    require_imports({"tailrace.archive.parquet": "pyarrow"})
    with pytest.raises(ReleaseRefused, match=r"tailrace\.store\.events needs pyarrow"):
        require_imports({"tailrace.store.events": "pyarrow"})


def test_a_python_on_the_path_that_does_not_run_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pyenv's shims of versions that are not chosen; where none runs, the error names what to install."""
    for folder, text in (("shim", "#!/bin/sh\nexit 127\n"), ("good", "#!/bin/sh\necho 3.97\n")):
        (tmp_path / folder).mkdir()
        script = tmp_path / folder / "python3.97"
        script.write_text(text)
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'shim'}:{tmp_path / 'good'}")
    assert find_python("3.97") == tmp_path / "good" / "python3.97"
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setenv("PATH", str(tmp_path / "shim"))
    with pytest.raises(ReleaseRefused, match=r"no Python 3\.97 that runs .*shim.*uv python install 3\.97"):
        find_python("3.97")
