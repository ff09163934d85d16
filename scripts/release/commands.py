"""Runs other programs, away from what the machine's owner has set."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.release.refusal import ReleaseRefused

# Nothing here takes a tenth of it, installing over a slow line apart.
COMMAND_SECONDS = 900.0


def run(command: Sequence[str | Path], *, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return its stdout; one that fails refuses the release, with what it said.

    :param env: added to a copy of the environment from which everything that steers Python or Tailrace is gone.
    """
    words = [str(word) for word in command]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TAILRACE_", "COV_"))}
    kept.pop("VIRTUAL_ENV", None)
    try:
        done = subprocess.run(  # noqa: S603 - the words are ours
            words, cwd=folder, env=kept | dict(env or {}), check=False, capture_output=True, text=True,
            timeout=COMMAND_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReleaseRefused(f"`{' '.join(words)}` could not be run: {error}") from error
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-30:])
        raise ReleaseRefused(f"`{' '.join(words)}` ended with {done.returncode} and said:\n{said}")
    return done.stdout
