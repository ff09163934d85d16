"""What has to hold before anything is built: a clean tree, and a version that the changelog tells of."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

from scripts.release.commands import run
from scripts.release.refusal import ReleaseRefused

VERSION_FILE = Path("src/tailrace/__init__.py")
_VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_RELEASED = re.compile(r"\[?(?P<version>\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)\]? - (?P<day>\d{4}-\d{2}-\d{2})")


def version_of(root: Path) -> str:
    """Return the version, from the one place where it stands."""
    found = _VERSION.search((root / VERSION_FILE).read_text("utf-8"))
    if found is None:
        raise ReleaseRefused(f'{VERSION_FILE} has no line `__version__ = "…"`')
    return found[1]


def require_clean_tree(root: Path) -> None:
    """Refuse a tree that differs from its last commit: what is released can be checked out again."""
    changed = run(["git", "status", "--porcelain"], folder=root).rstrip()
    if changed:
        raise ReleaseRefused(
            f"the tree is not clean; commit, stash or remove these, or rehearse with `make release DIRTY=1`:\n{changed}"
        )


def require_new_version(root: Path, version: str) -> None:
    """Refuse a version whose tag is on another commit: it has been released as something else."""
    if not run(["git", "tag", "--list", f"v{version}"], folder=root).strip():
        return
    tagged = run(["git", "rev-list", "-1", f"v{version}"], folder=root).strip()
    if tagged != run(["git", "rev-parse", "HEAD"], folder=root).strip():
        raise ReleaseRefused(f"the tag v{version} is on {tagged[:12]}: raise __version__ in {VERSION_FILE}")


def require_changelog(text: str, version: str) -> None:
    """Refuse a changelog that does not open with this version, dated, or keeps lines back under Unreleased."""
    sections = _sections(text)
    unreleased = sections.pop("Unreleased", "")
    if re.search(r"^[-*] ", unreleased, re.MULTILINE):
        raise ReleaseRefused(
            f"CHANGELOG.md has lines under `## Unreleased`: move them under `## {version} - {date.today()}`"  # noqa: DTZ011 - the day where the writer is
        )
    newest = next(iter(sections), None)
    found = _RELEASED.fullmatch(newest or "")
    if found is None or found["version"] != version:
        raise ReleaseRefused(
            f"{VERSION_FILE} has version {version}, and CHANGELOG.md opens with "
            f"{f'`## {newest}`' if newest else 'no version'}: give it the heading `## {version} - YYYY-MM-DD`, "
            "or mend __version__"
        )
    try:
        date.fromisoformat(found["day"])
    except ValueError as error:
        raise ReleaseRefused(f"the heading `## {newest}` of CHANGELOG.md has no day of the calendar") from error
    if not re.search(r"^[-*] ", sections[newest or ""], re.MULTILINE):
        raise ReleaseRefused(f"CHANGELOG.md says nothing under `## {newest}`")


def released_versions(text: str) -> list[str]:
    """Return the versions of a changelog's headings, newest first; a heading that is none refuses."""
    versions = []
    for heading in _sections(text):
        if heading == "Unreleased":
            continue
        found = _RELEASED.fullmatch(heading)
        if found is None:
            raise ReleaseRefused(f"the heading `## {heading}` of CHANGELOG.md is no `VERSION - YYYY-MM-DD`")
        versions.append(found["version"])
    return versions


def _sections(text: str) -> dict[str, str]:
    pieces = _HEADING.split(text)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))
