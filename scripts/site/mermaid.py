"""The program that draws the diagrams, for the pages to load from the site itself and not from somebody's server."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = "11.17.2"
SHA256 = "581ed7d74bd9048d0e3a91363927d72ef22942d7722546b27f7cc29e35390eb8"
FETCH_SECONDS = 120
# A registry may be slow or away for a moment.
TRIES_MAX = 3


def fetch(folder: Path) -> Path | None:
    """Return the program's file in ``folder``, had from npm when it is not there yet.

    None where there is no npm or it gives nothing: the diagrams can then be read as text.

    :raises ValueError: what npm gave is not what was looked at when this version was chosen.
    """
    file = folder / f"mermaid-{VERSION}.min.js"
    if not file.exists():
        program = _packed()
        if program is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: another build may look for it now.
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as part:
            part.write(program)
        Path(part.name).replace(file)
    if (found := hashlib.sha256(file.read_bytes()).hexdigest()) != SHA256:
        file.unlink()
        raise ValueError(f"mermaid {VERSION} has the SHA-256 {found}, and {SHA256} was expected; it was removed")
    return file


def _packed() -> bytes | None:
    npm = shutil.which("npm")
    if npm is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", folder, f"mermaid@{VERSION}"]
        if not any(_succeeds(command) for _ in range(TRIES_MAX)):
            return None
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as packed:
            program = packed.extractfile("package/dist/mermaid.min.js")
            return program.read() if program is not None else None


def _succeeds(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=FETCH_SECONDS)  # noqa: S603 - ours
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
