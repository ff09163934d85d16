"""The steps of a release, one after the other; nothing is in ``dist`` before all of them have passed."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.release.bill import make_bill, mirror_hosts, require_complete, require_no_trace
from scripts.release.building import Built, build_twice, sha256, source_epoch
from scripts.release.commands import run
from scripts.release.contents import inspect_sdist, inspect_wheel
from scripts.release.gates import require_changelog, require_clean_tree, require_new_version, version_of
from scripts.release.interpreters import VERSIONS, find_python
from scripts.release.licences import licence_list, licences_in, require_allowed
from scripts.release.refusal import ReleaseRefused
from scripts.release.trying import Environment, try_sdist, try_wheel

ROOT = Path(__file__).resolve().parent.parent.parent
# A demo's Postgres outlives its last client by a moment, and its files with it.
POSTGRES_GOES_SECONDS = 20.0


def main() -> int:
    """Make a release, or say why not; return the exit code."""
    options = argparse.ArgumentParser(prog="make release", description=__doc__)
    options.add_argument(
        "--dirty", action="store_true", help="rehearse: the tree as it is, no gates, into build/rehearsal"
    )
    dirty: bool = options.parse_args().dirty
    began = time.monotonic()
    try:
        with _work_folder() as work:
            folder = _release(work, dirty=dirty)
    except ReleaseRefused as refused:
        print(f"release: {refused}", file=sys.stderr)
        return 1
    print(
        f"{folder.relative_to(ROOT)}/ is ready after {time.monotonic() - began:.0f} s; docs/releasing.md says what next"
    )
    return 0


def _release(work: Path, *, dirty: bool) -> Path:
    version = version_of(ROOT)
    if not dirty:
        require_clean_tree(ROOT)
        require_new_version(ROOT, version)
        require_changelog((ROOT / "CHANGELOG.md").read_text("utf-8"), version)
    # First of all, for it costs nothing and may be what is not there.
    pythons = [find_python(wanted) for wanted in VERSIONS]
    with _step(f"tailrace {version}: built twice, the bytes are the same"):
        built = build_twice(ROOT, work, version, dirty=dirty)
    with _step("wheel and sdist hold what they should"):
        paths = [ROOT, work, Path.home()]
        inspect_wheel(built.wheel, built.sources, version, machine_paths=paths)
        inspect_sdist(built.sdist, built.sources, version, machine_paths=paths)
        run([sys.executable, "-m", "twine", "check", "--strict", built.wheel, built.sdist], folder=work)
    out = work / "out"
    out.mkdir()
    for wanted, base in zip(VERSIONS, pythons, strict=True):
        _try_on(wanted, base, work, built, version)
    newest = work / f"wheel-{VERSIONS[-1]}" / "bin" / "python"
    with _step("bill of materials and licences"):
        _write_papers(newest, built, version, work, out)
    for archive in (built.sdist, built.wheel):
        shutil.copy(archive, out)
    sums = [f"{sha256(path)}  {path.name}\n" for path in sorted(out.iterdir())]
    (out / "SHA256SUMS").write_text("".join(sums))
    print("".join(sums), end="")
    folder = ROOT / "build" / "rehearsal" if dirty else ROOT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(out, folder)
    return folder


def _try_on(wanted: str, base: Path, work: Path, built: Built, version: str) -> None:
    constraints = built.sources / "constraints.txt"
    with _step(f"Python {wanted}: the sdist becomes the same package"):
        try_sdist(Environment(base, work / f"sdist-{wanted}", constraints), built, version)
    with _step(f"Python {wanted}: the wheel alone, with [local], with all extras"):
        environment = Environment(base, work / f"wheel-{wanted}", constraints)
        print(f"  demo: {try_wheel(environment, built, version)}")
        require_allowed(licences_in(environment.python, work))


def _write_papers(python: Path, built: Built, version: str, work: Path, out: Path) -> None:
    licences = licences_in(python, work)
    bill = make_bill(
        python, built.wheel, sources=built.sources, version=version, epoch=source_epoch(ROOT), licences=licences
    )
    require_complete(bill, licences)
    papers = {
        f"tailrace-{version}.cdx.json": bill,
        f"tailrace-{version}-licences.md": licence_list(licences, version),
    }
    hosts = mirror_hosts(work)
    for name, text in papers.items():
        require_no_trace(name, text, paths=[ROOT, work, Path.home(), Path(tempfile.gettempdir())], hosts=hosts)
        (out / name).write_text(text, "utf-8")


@contextmanager
def _step(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"✓ {what} ({time.monotonic() - began:.0f} s)", flush=True)


@contextmanager
def _work_folder() -> Iterator[Path]:
    """A folder that the account of the embedded Postgres can reach, too, when root makes the release."""
    folder = Path(tempfile.mkdtemp(prefix="tailrace-release-")).resolve()
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        deadline = time.monotonic() + POSTGRES_GOES_SECONDS
        while folder.exists() and time.monotonic() < deadline:
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
