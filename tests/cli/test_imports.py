"""What a command imports: not the web server, where it needs none."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tailrace

LOOK = """
import sys
from tailrace.cli import main
sys.argv = ["tailrace", *{args!r}]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
heavy = {{"fastapi", "uvicorn", "asyncpg", "joserfc"}} & sys.modules.keys()
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["schema"], ["keys", "--help"], ["demo", "--help"], ["runs", "--help"]]
)
def test_a_command_that_serves_nothing_imports_no_server(args: list[str]) -> None:
    """Nor a database driver; each of them would take longer than the command itself."""
    done = subprocess.run([sys.executable, "-c", LOOK.format(args=args)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_name_of_the_library_is_there_when_it_is_asked_for() -> None:
    """And in ``dir``; what is not one of them is said not to be."""
    for name in tailrace.__all__:
        assert getattr(tailrace, name) is not None
        assert name in dir(tailrace)
    assert not hasattr(tailrace, "Nonsense")
