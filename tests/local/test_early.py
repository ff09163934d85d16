"""Starting the embedded server while the process does something else."""

from __future__ import annotations

from pathlib import Path

from tailrace.local import start
from tailrace.local.early import starting_early
from tests.local.conftest import Folder
from tests.local.processes import is_alive


def test_who_needs_the_server_joins_the_one_that_starts(folder: Folder) -> None:
    """One server for both, which goes when the block and the share have."""
    with starting_early(folder.path):
        with start(folder.path):
            postmaster = folder.postmaster()
        assert is_alive(postmaster)
    folder.await_stopped()
    assert not is_alive(postmaster)


def test_what_fails_is_left_to_whoever_needs_the_server(tmp_path: Path) -> None:
    """A folder that cannot be made: the block goes on."""
    (tmp_path / "file").touch()
    passed = []
    with starting_early(tmp_path / "file" / "data"):
        passed.append(True)
    assert passed
