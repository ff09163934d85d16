"""Folders as they are found: links, loops, binaries, and files that are not to be read or overwritten."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from tailrace.demo import files
from tailrace.demo.files import checked_folder, discover, measure_file, report_path, write_report
from tailrace.errors import UsageError


def test_files_are_found_in_one_order_and_links_are_not_followed(tmp_path: Path) -> None:
    """A link to the folder itself traps nothing; tools' folders, pipes and the report are left out."""
    for name in ("b.txt", "a/z.txt", "a/y/x.txt", ".git/config", "a/__pycache__/c.pyc", "report.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "link.txt").symlink_to(tmp_path / "b.txt")
    os.mkfifo(tmp_path / "pipe")
    assert discover(str(tmp_path), str(tmp_path / "report.md")) == {
        "files": ["b.txt", "a/z.txt", "a/y/x.txt"],
        "skipped": {"links": 2, "special": 1},
    }


def test_huge_and_unnameable_files_are_counted_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON has no way to write a name that is not UTF-8."""
    monkeypatch.setattr(files, "FILE_MAX_BYTES", 4)
    (tmp_path / "four").write_text("four")
    (tmp_path / "fiver").write_text("fiver")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_text("x")
    assert discover(str(tmp_path), "") == {"files": ["four"], "skipped": {"huge": 1, "unnameable": 1}}


def test_a_folder_of_too_many_files_is_cut_and_the_rest_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FILES_MAX", 2)
    for name in "abcde":
        (tmp_path / name).write_text(name)
    assert discover(str(tmp_path), "") == {"files": ["a", "b"], "skipped": {"beyond": 3}}


def test_a_folder_that_vanished_is_counted_as_unreadable(tmp_path: Path) -> None:
    assert discover(str(tmp_path / "gone"), "") == {"files": [], "skipped": {"unreadable": 1}}


def test_what_is_no_text_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has vanished, grown, or was never text is no error."""
    for name, content in {"bin": b"a\0b", "latin": b"caf\xe9", "bom": b"\xef\xbb\xbfone", "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
    assert measure_file(tmp_path / "bin", 100) == "binary"
    assert measure_file(tmp_path / "latin", 100) == "undecodable"
    assert measure_file(tmp_path / "gone", 100) == "unreadable"
    assert measure_file(tmp_path / "bom", 100) == {"lines": 1, "words": 1, "terms": "one:1"}
    assert measure_file(tmp_path / "empty", 100) == {"lines": 0, "words": 0, "terms": ""}
    monkeypatch.setattr(files, "FILE_MAX_BYTES", 2)
    assert measure_file(tmp_path / "latin", 100) == "huge"


def test_a_file_without_permission_is_unreadable() -> None:
    """Root may read everything, so as root the file is looked at with the rights of nobody."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        secret = Path(folder) / "secret"
        secret.write_text("x")
        secret.chmod(0)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(pwd.getpwnam("nobody").pw_uid)
            assert measure_file(secret, 100) == "unreadable"
        finally:
            os.seteuid(user)


def test_a_missing_folder_is_refused_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"gone' and found nothing there; name a folder"):
        checked_folder(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"found a file"):
        checked_folder(tmp_path / "file")
    with pytest.raises(UsageError, match=r"null"):
        checked_folder("a\0b")
    (tmp_path / "link").symlink_to(tmp_path)
    assert checked_folder(tmp_path / "link") == tmp_path.resolve()


def test_a_report_never_replaces_somebody_elses_file(tmp_path: Path) -> None:
    """A run's input comes over HTTP: it must not be a way to overwrite files."""
    theirs, ours = tmp_path / "notes.md", tmp_path / "new" / "digest.md"
    theirs.write_text("# Notes")
    with pytest.raises(UsageError, match="not a report"):
        write_report(theirs, "# Digest of x")
    assert theirs.read_text() == "# Notes"
    write_report(ours, "# Digest of x")
    write_report(ours, "# Digest of y")
    assert ours.read_text() == "# Digest of y"
    assert [path.name for path in ours.parent.iterdir()] == ["digest.md"]
    with pytest.raises(UsageError, match=r"name another file"):
        write_report(theirs / "below.md", "# Digest of x")
    with pytest.raises(UsageError, match=r"ends in \.md"):
        report_path(tmp_path, str(tmp_path / "authorized_keys"))


def test_one_folder_has_one_default_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_data_dir", lambda name: f"/data/{name}")
    first, again = report_path(Path("/a/lib"), None), report_path(Path("/a/lib"), None)
    assert first == again
    assert first != report_path(Path("/b/lib"), None)
    assert str(first).startswith("/data/tailrace/reports/lib-")
    assert report_path(Path("/"), None).name.startswith("root-")
