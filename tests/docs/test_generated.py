"""Generated files are those that the code would generate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_reference_is_current() -> None:
    """`make docs` would change nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.reference", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_nothing_names_a_package_mirror_or_this_machine() -> None:
    """Constraints have names and versions alone, and there is no lock file that records an index."""
    constraints = (ROOT / "constraints.txt").read_text("utf-8")
    assert "http://" not in constraints
    assert "https://" not in constraints
    assert "--" not in constraints
    assert not [name for name in ("uv.lock", "pylock.toml", "poetry.lock") if (ROOT / name).exists()]
