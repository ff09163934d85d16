"""Everything that touches the disk: finding the files, reading them, writing the report.

A folder is taken as it is found: links are not followed (so no loop can trap the walk), and what cannot be read is
counted and left out.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypedDict

import platformdirs

from tailrace.demo.report import HEADING
from tailrace.demo.terms import Measure, measure
from tailrace.errors import UsageError

# Python's standard library has 2,000 text files, Linux 80,000; a demo should end before one has lost interest in it.
FILES_MAX = 20_000
# With a byte or two per character, all paths stay far below the 16 MiB that a kept step may take.
PATHS_MAX_CHARS = 4 * 2**20
# Text that people write is smaller; the largest module of Python's standard library has 0.8 MB.
FILE_MAX_BYTES = 2 * 2**20
# What stands in these was made by a tool or belongs to somebody else.
FOLDERS_LEFT_OUT = frozenset(
    {".git", ".hg", ".svn", ".tox", ".venv", "__pycache__", "dist-packages", "node_modules", "site-packages"}
)

Unreadable = Literal["binary", "undecodable", "huge", "unreadable"]


class Found(TypedDict):
    """The files of a folder, as sorted relative paths with ``/``, and how many were left out, by reason."""

    files: list[str]
    skipped: dict[str, int]


class NoTextFiles(UsageError):
    """The folder holds nothing that could be digested."""


def checked_folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder as an absolute path without links; raise ``UsageError`` when there is none."""
    try:
        folder = Path(path).expanduser().resolve()
        found = "a file" if folder.is_file() else "nothing there" if not folder.exists() else "no folder"
        if folder.is_dir():
            return folder
    except (OSError, RuntimeError, ValueError) as error:
        found = str(error)
    raise UsageError(f"tried to digest the folder {str(path)!r} and found {found}; name a folder with text files in it")


def report_path(folder: Path, asked: str | None) -> Path:
    """Return where the report on ``folder`` goes: where it was asked for, else among the user's data.

    Its name is made from the folder, so a second digest of it replaces the first.

    :raises UsageError: the path that was asked for is not that of a Markdown file.
    """
    if asked is None:
        mark = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
        name = os.fsencode(folder.name).decode("utf-8", "replace")[:60] or "root"
        return Path(platformdirs.user_data_dir("tailrace")) / "reports" / f"{name}-{mark}.md"
    path = Path(asked).expanduser().absolute()
    if path.suffix != ".md":
        raise UsageError(f"the report was asked for at {asked!r}; it is Markdown, so name a file that ends in .md")
    return path


def discover(folder: str, report: str) -> Found:
    """Return the files below ``folder`` that may be text; ``report`` itself is not one of them.

    Reads no file.  The order is by name, folder by folder, whatever the file system's own.
    """
    files: list[str] = []
    skipped: Counter[str] = Counter()
    chars = 0
    for entry in _walk(folder, skipped):
        reason = _reason_to_skip(entry)
        if entry.path == report:
            continue
        if reason is None and (len(files) >= FILES_MAX or chars + len(entry.path) > PATHS_MAX_CHARS):
            reason = "beyond"
        if reason is None:
            path = os.path.relpath(entry.path, folder).replace(os.sep, "/")
            files.append(path)
            chars += len(path)
        else:
            skipped[reason] += 1
    return {"files": files, "skipped": dict(sorted(skipped.items()))}


def _walk(folder: str, skipped: Counter[str]) -> Iterator[os.DirEntry[str]]:
    """Yield what is not a folder, below ``folder``, in order; count the folders that cannot be listed."""
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            skipped["unreadable"] += 1
            continue
        folders = []
        for entry in entries:
            if _is_folder(entry):
                if entry.name not in FOLDERS_LEFT_OUT:
                    folders.append(entry.path)
            else:
                yield entry
        waiting += reversed(folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _reason_to_skip(entry: os.DirEntry[str]) -> str | None:
    try:
        entry.path.encode()
    except UnicodeEncodeError:
        return "unnameable"
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return "unreadable"
    if stat.S_ISLNK(found.st_mode):
        return "links"
    if not stat.S_ISREG(found.st_mode):
        return "special"
    return "huge" if found.st_size > FILE_MAX_BYTES else None


def measure_files(folder: str, paths: Sequence[str], terms_max_bytes: int) -> list[Measure | Unreadable]:
    """Read and count some files; in the place of each that is no text stands why."""
    return [measure_file(Path(folder, path), terms_max_bytes) for path in paths]


def measure_file(path: Path, terms_max_bytes: int) -> Measure | Unreadable:
    """Read and count one file, or say why it is no text.  A byte of zero marks a binary file, as it does for git."""
    try:
        with path.open("rb") as opened:
            content = opened.read(FILE_MAX_BYTES + 1)
    except OSError:
        return "unreadable"
    if len(content) > FILE_MAX_BYTES:
        return "huge"
    if b"\0" in content:
        return "binary"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "undecodable"
    return measure(text, terms_max_bytes=terms_max_bytes)


def write_report(path: Path, text: str) -> None:
    """Write the report in one piece: a reader sees the old one or the new one, and a crash leaves no half of it.

    :raises UsageError: a file is there that is not a report, or the folder cannot be written to.
    """
    try:
        if path.exists() and not path.read_bytes().startswith(HEADING.encode()):
            raise UsageError(
                f"tried to write the report to {str(path)!r} and found a file that is not a report of this agent; it "
                "was left alone: name another file"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".report-", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as opened:
                opened.write(text)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(
            f"tried to write the report to {str(path)!r} and found: {error}; name another file as the input's `report`"
        ) from error
