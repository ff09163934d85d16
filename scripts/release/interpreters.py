"""Finds the Pythons on which a release is tried."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from scripts.release.refusal import ReleaseRefused

# The oldest and the newest that pyproject.toml promises.
VERSIONS = ("3.11", "3.13")
_ASK = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
_SECONDS = 30.0


def find_python(version: str) -> Path:
    """Return a Python of this version that runs: from PATH, from pyenv, or from uv.

    A name on PATH need not run: pyenv's shims are there for versions that are not chosen.
    """
    tried = []
    for candidate in _candidates(version):
        if _answer([str(candidate), "-c", _ASK]) == version:
            return candidate
        tried.append(str(candidate))
    raise ReleaseRefused(
        f"there is no Python {version} that runs ({', '.join(tried) or 'no trace of one'}). Install one: "
        f"`uv python install {version}`, `pyenv install {version}`, or your system's package python{version} "
        f"(with python{version}-venv where that is apart)"
    )


def _candidates(version: str) -> Iterator[Path]:
    for folder in os.get_exec_path():
        if (path := Path(folder) / f"python{version}").exists():
            yield path
    if shutil.which("pyenv") and (root := _answer(["pyenv", "root"])):
        yield from sorted(Path(root).glob(f"versions/{version}.*/bin/python{version}"), reverse=True)
    uv = shutil.which("uv") or shutil.which("uv", path=sysconfig.get_path("scripts"))
    if uv and (found := _answer([uv, "python", "find", "--system", "--no-project", version])):
        yield Path(found)


def _answer(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_SECONDS)  # noqa: S603 - the words are ours
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
