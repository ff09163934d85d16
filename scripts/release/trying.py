"""Installs what was built into empty environments and uses it as a stranger would."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.release.building import Built
from scripts.release.commands import run
from scripts.release.contents import package_names
from scripts.release.refusal import ReleaseRefused, refuse

EXTRAS = ("archive", "local", "nats", "otel", "redis")
# Modules that may miss the package of an extra, and which: all others have to import without.
_OPTIONAL = {
    "tailrace.archive.archiver": "pyarrow",
    "tailrace.archive.objects": "pyarrow",
    "tailrace.archive.parquet": "pyarrow",
    "tailrace.archive.rewrite": "pyarrow",
    "tailrace.archive.vault": "obstore",
    "tailrace.bus.nats": "nats",
    "tailrace.bus.redis": "redis",
    "tailrace.exporters.otel": "opentelemetry.exporter",
    "tailrace.testing.plugin": "pytest",
}
# Imported, these run.
_PROGRAMS = ("tailrace.__main__", "tailrace.local.launch")
_IMPORT_ALL = """
import importlib, json, pkgutil, sys, tailrace
missing = {}
# What the walk cannot import is in its list all the same.
for module in pkgutil.walk_packages(tailrace.__path__, "tailrace.", lambda name: None):
    if module.name in sys.argv[1:]:
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing[module.name] = error.name
print(json.dumps(missing))
"""
_INSTALLED = """
import json
from importlib.metadata import distribution
print(json.dumps([str(path) for path in distribution("tailrace").files]))
"""


class Environment:
    """A virtual environment that began with nothing in it, not even pip."""

    def __init__(self, base: Path, folder: Path, constraints: Path) -> None:
        run([base, "-m", "venv", "--without-pip", folder], folder=folder.parent)
        self.folder = folder
        self.python = folder / "bin" / "python"
        self._constraints = constraints

    def install(self, archive: Path, extras: Sequence[str] = ()) -> None:
        """Install an archive with extras, all else in the versions that were tested."""
        wanted = f"{archive}[{','.join(extras)}]" if extras else str(archive)
        run(
            [
                sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", self.python,
                "install", "--constraint", self._constraints, wanted,
            ],
            folder=self.folder,
        )  # fmt: skip

    def run(self, *words: str | Path) -> str:
        """Run a program of the environment, or its Python, outside the sources."""
        return run(
            [self.folder / "bin" / words[0], *words[1:]],
            folder=self.folder,
            env={"HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder / "data")},
        )


def try_sdist(environment: Environment, built: Built, version: str) -> None:
    """Install the sdist, and refuse one that becomes another package than the wheel."""
    environment.install(built.sdist)
    _says_its_version(environment, version)
    installed = json.loads(environment.run("python", "-c", _INSTALLED))
    ours = {name for name in installed if name.startswith("tailrace/") and not name.endswith(".pyc")}
    wheel = package_names(built.wheel)
    refuse(
        f"{built.sdist.name}, installed, is not {built.wheel.name}",
        [f"{name} is in one of them alone" for name in sorted(ours ^ wheel)],
    )


def try_wheel(environment: Environment, built: Built, version: str) -> str:
    """Use the wheel with nothing but its dependencies, then with the embedded Postgres; return how the demo ended."""
    environment.install(built.wheel)
    _says_its_version(environment, version)
    schema = json.loads(environment.run("tailrace", "schema"))
    if "properties" not in schema and "$defs" not in schema:
        raise ReleaseRefused(f"`tailrace schema` printed no JSON Schema: {schema}")
    environment.run("python", "-c", "import tailrace\nfor name in tailrace.__all__: getattr(tailrace, name)")
    require_imports(json.loads(environment.run("python", "-c", _IMPORT_ALL, *_PROGRAMS)))
    environment.install(built.wheel, ["local"])
    ended = _demo(environment)
    environment.install(built.wheel, EXTRAS)
    missing = json.loads(environment.run("python", "-c", _IMPORT_ALL, *_PROGRAMS))
    # The plugin is for those who have pytest, which no extra brings.
    refuse(
        "these modules do not import where all extras are installed",
        [f"{module} needs {package}" for module, package in missing.items() if package != "pytest"],
    )
    return ended


def require_imports(missing: dict[str, str]) -> None:
    """Refuse modules that need more than the base dependencies, apart from those of the extras."""
    refuse(
        "these modules do not import where no extra is installed",
        [f"{module} needs {package}" for module, package in missing.items() if _OPTIONAL.get(module) != package],
    )


def _says_its_version(environment: Environment, version: str) -> None:
    said = environment.run("tailrace", "--version").strip()
    if said != f"tailrace {version}":
        raise ReleaseRefused(f"`tailrace --version` says {said!r} and not 'tailrace {version}'")


def _demo(environment: Environment) -> str:
    texts = environment.folder / "texts"
    texts.mkdir()
    for number in range(20):
        (texts / f"{number}.txt").write_text(f"file {number} tells of {'rivers ' * number}\n" * 10)
    proof = json.loads(environment.run("tailrace", "demo", texts, "--json"))
    ended = f"{proof['events']} events, lost {proof['lost']}, twice {proof['twice']}"
    if (proof["state"], proof["lost"], proof["twice"]) != ("finished", 0, 0) or not proof["events"]:
        raise ReleaseRefused(f"`tailrace demo` ended with {proof['state']}: {ended}")
    return ended
