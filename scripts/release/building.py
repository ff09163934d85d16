"""Builds the sdist, and the wheel from it, twice in two places, and compares the bytes."""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.release.commands import run
from scripts.release.refusal import ReleaseRefused


@dataclass(frozen=True, slots=True)
class Built:
    """What a build leaves, and the folder of the sources that went into it."""

    sdist: Path
    wheel: Path
    sources: Path


def build_twice(root: Path, work: Path, version: str, *, dirty: bool) -> Built:
    """Build from two copies of the tree, in folders of different names, and refuse results that differ.

    The copies hold what the last commit holds (``dirty``: what it and the next would), so that nothing which git
    ignores can get in. Times in the archives are those of the last commit.
    """
    epoch = source_epoch(root)
    one, other = (
        _build(_copy(root, work / name / "sources", dirty=dirty), work / name / "dist", epoch, version)
        for name in ("first", "second-in-another-place")
    )
    for left, right in ((one.sdist, other.sdist), (one.wheel, other.wheel)):
        if (this := sha256(left)) != (that := sha256(right)):
            raise ReleaseRefused(
                f"two builds of {left.name} differ, {this[:12]} and {that[:12]}: something of the machine, "
                "the time or the place gets in"
            )
    return one


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def source_epoch(root: Path) -> str:
    """Return when the last commit was made, in seconds since 1970."""
    return run(["git", "log", "-1", "--format=%ct"], folder=root).strip()


def _copy(root: Path, folder: Path, *, dirty: bool) -> Path:
    folder.mkdir(parents=True)
    if not dirty:
        archive = folder.with_suffix(".tar")
        run(["git", "archive", "--output", archive, "HEAD"], folder=root)
        shutil.unpack_archive(archive, folder, filter="data")
        return folder
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], folder=root)
    for name in listed.split("\0"):
        if name and (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, folder / name)
    return folder


def _build(sources: Path, dist: Path, epoch: str, version: str) -> Built:
    # Without isolation: the backend is the one that constraints.txt names, and not the newest of the day.
    run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, sources],
        folder=sources, env={"SOURCE_DATE_EPOCH": epoch},
    )  # fmt: skip
    sdist, wheel = dist / f"tailrace-{version}.tar.gz", dist / f"tailrace-{version}-py3-none-any.whl"
    found = sorted(path.name for path in dist.iterdir())
    if found != sorted([sdist.name, wheel.name]):
        raise ReleaseRefused(f"the build made {', '.join(found)} and not {sdist.name} and {wheel.name}")
    return Built(sdist, wheel, sources)
