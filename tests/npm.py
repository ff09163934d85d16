"""Packages for Node, from npm's registry, which may be slow or away for a moment."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

NPM, NODE = shutil.which("npm"), shutil.which("node")
REASON = "there is no npm; on Debian: apt-get install npm"
TRIES_MAX = 3


def install(folder: Path, package: str) -> None:
    """Install a package into a folder in which nothing else is."""
    assert NPM is not None
    subprocess.run([NPM, "init", "--yes"], cwd=folder, check=True, capture_output=True)
    for tries_left in reversed(range(TRIES_MAX)):
        command = [NPM, "install", "--no-audit", "--no-fund", package]
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
        if done.returncode == 0:
            return
        assert tries_left, done.stderr
