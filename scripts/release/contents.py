"""Looks into the wheel and the sdist: all that belongs there is there, and nothing else."""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from email.parser import BytesParser
from pathlib import Path, PurePosixPath

from scripts.release.refusal import refuse

PACKAGE = "tailrace"
# What no archive may hold, whatever the sources do.
_UNWANTED = re.compile(
    r"(^|/)(__pycache__|\.[a-z]\w*_cache|\.venv|\.env|\.git|\.hypothesis|node_modules)(/|$)|\.(pyc|pyo|so|orig|rej)$"
)
_IN_SDIST = ("LICENSE", "README.md", "CHANGELOG.md", "PKG-INFO", "pyproject.toml", "constraints.txt", "Makefile")
# A home of somebody's, on any machine; ours are given by name.
_SOMEBODYS_HOME = re.compile(rb"(?:/home|/Users)/\w[\w.-]*/|[A-Z]:\\Users\\")


def inspect_wheel(wheel: Path, sources: Path, version: str, *, machine_paths: Sequence[Path] = ()) -> None:
    """Refuse a wheel that is not the package of ``sources``, file by file, with its licence and its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        found = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    info = f"{PACKAGE}-{version}.dist-info"
    package = {name: text for name, text in found.items() if not name.startswith(f"{info}/")}
    expected = _package_files(sources)
    faults = [f"{name} is missing" for name in sorted(expected.keys() - package.keys())]
    faults += [f"{name} does not belong there" for name in sorted(package.keys() - expected.keys())]
    faults += [
        f"{name} is not that of the sources" for name in sorted(expected) if package.get(name, b"") != expected[name]
        and name in package
    ]  # fmt: skip
    faults += _must_be_there(package)
    faults += _unwanted(found, machine_paths)
    faults += [
        f"{info}/{name} is missing"
        for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
        if f"{info}/{name}" not in found
    ]
    faults += _metadata(found.get(f"{info}/METADATA", b""), version)
    refuse(f"{wheel.name} may not be released", faults)


def inspect_sdist(sdist: Path, sources: Path, version: str, *, machine_paths: Sequence[Path] = ()) -> None:
    """Refuse an sdist without the package, its tests, or what it needs to be built and tested from."""
    top = f"{PACKAGE}-{version}"
    with tarfile.open(sdist) as archive:
        members = [(member, archive.extractfile(member)) for member in archive.getmembers()]
        found = {member.name.removeprefix(f"{top}/"): file.read() for member, file in members if file is not None}
        faults = [
            f"{member.name} is neither file nor folder"
            for member, file in members
            if file is None and not member.isdir()
        ]
    wanted = [f"src/{name}" for name in _package_files(sources)] + list(_IN_SDIST)
    faults += [f"{name} is missing" for name in wanted if name not in found]
    if not any(name.startswith("tests/") for name in found):
        faults.append("tests/ is missing")
    faults += _unwanted(found, machine_paths)
    faults += _metadata(found.get("PKG-INFO", b""), version)
    refuse(f"{sdist.name} may not be released", faults)


def package_names(wheel: Path) -> set[str]:
    """Return the names of the package's files in a wheel, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if name.startswith(f"{PACKAGE}/")}


def _package_files(sources: Path) -> dict[str, bytes]:
    folder = sources / "src"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in (folder / PACKAGE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _must_be_there(package: Mapping[str, bytes]) -> list[str]:
    """Whatever the sources hold, there is no Tailrace without these."""
    wanted = {
        "the mark of a typed package": f"{PACKAGE}/py.typed",
        "the first migration": f"{PACKAGE}/store/migrations/0001_runs_events_outbox.sql",
        "a statement": f"{PACKAGE}/store/sql/append.sql",
        "the console's page": f"{PACKAGE}/http/console/files/console.html",
        "the console's program": f"{PACKAGE}/http/console/files/main.js",
    }
    return [f"{what} is missing, {name}" for what, name in wanted.items() if name not in package]


def _unwanted(found: Mapping[str, bytes], machine_paths: Sequence[Path]) -> list[str]:
    faults = [f"{name} is no part of a release" for name in sorted(found) if _UNWANTED.search(name)]
    faults += [
        f"{name} leads out of the archive"
        for name in sorted(found)
        if name.startswith("/") or ".." in PurePosixPath(name).parts
    ]
    # A root such as `/` or `/w` would be found in any text.
    ours = [str(path).encode() + b"/" for path in machine_paths if len(path.parts) > 2]  # noqa: PLR2004 - `/`, `/w`
    for name, text in sorted(found.items()):
        match = _SOMEBODYS_HOME.search(text) if name.startswith(PACKAGE) else None
        here = [match[0]] if match is not None else [path for path in ours if path in text]
        faults += [f"{name} holds the machine's path {path.decode(errors='replace')}" for path in here]
    return faults


def _metadata(text: bytes, version: str) -> list[str]:
    message = BytesParser().parsebytes(text, headersonly=True)
    wanted = {
        "Name": PACKAGE,
        "Version": version,
        "License-Expression": "Apache-2.0",
        "License-File": "LICENSE",
        "Requires-Python": ">=3.11",
    }
    faults = [
        f"the metadata has {name}: {message[name]} and not {value}"
        for name, value in wanted.items()
        if message[name] != value
    ]
    # Whoever installs a release finds all of it in an index.
    faults += [
        f"the dependency {requirement!r} is no index's"
        for requirement in message.get_all("Requires-Dist", [])
        if "@" in requirement
    ]
    return faults
