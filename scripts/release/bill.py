"""The bill of materials: what an environment with all extras holds, as CycloneDX, without a trace of this machine."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scripts.release.building import sha256
from scripts.release.commands import run
from scripts.release.licences import Licence
from scripts.release.refusal import refuse

_URL = re.compile(r"[a-z][a-z+]*://[^\s\"'<>]+", re.IGNORECASE)
# Where these say that a package was fetched from, it is this machine's business.
_FETCHED = ("distribution", "distribution-intake")
_OURS = re.compile(r"^(localhost|127\..*|\[?::1\]?|.*\.(local|internal|lan))$")


def make_bill(
    python: Path, wheel: Path, *, sources: Path, version: str, epoch: str, licences: Sequence[Licence]
) -> str:
    """Return the CycloneDX document of what is installed beside ``python``."""
    text = run(
        [
            Path(sys.executable).parent / "cyclonedx-py", "environment", "--output-reproducible",
            "--mc-type", "library", "--pyproject", sources / "pyproject.toml", "--output-format", "JSON", python,
        ],
        folder=sources, env={"SOURCE_DATE_EPOCH": epoch},
    )  # fmt: skip
    document = json.loads(text)
    # The version is dynamic, which the tool does not follow, and the wheel has no address yet.
    document["metadata"]["component"] |= {
        "version": version,
        "purl": f"pkg:pypi/tailrace@{version}",
        "hashes": [{"alg": "SHA-256", "content": sha256(wheel)}],
    }
    known = {licence.package: licence.expression for licence in licences}
    for component in document["components"]:
        component.setdefault("licenses", [{"license": {"name": known[component["name"]]}}])
        _forget_where_it_came_from(component)
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def require_complete(bill: str, licences: Sequence[Licence]) -> None:
    """Refuse a bill that lacks a package of the environment."""
    document = json.loads(bill)
    named = {component["name"] for component in [*document["components"], document["metadata"]["component"]]}
    refuse(
        "the bill of materials is not complete",
        [f"{one.package} {one.version} is missing" for one in licences if one.package not in named],
    )


def require_no_trace(name: str, text: str, *, paths: Sequence[Path], hosts: Sequence[str]) -> None:
    """Refuse a text that names paths of this machine, or hosts where it fetches its packages."""
    faults = [f"the path {path}" for path in paths if len(path.parts) > 1 and f"{path}/" in text]
    for url in sorted(set(_URL.findall(text))):
        parts = urlsplit(url)
        if parts.scheme.lower() == "file" or _OURS.match(parts.hostname or "") or parts.hostname in hosts:
            faults.append(f"the address {parts.scheme}://{parts.hostname or ''}{parts.path}")
    refuse(f"{name} tells of the machine where it was made", faults)


def mirror_hosts(folder: Path) -> list[str]:
    """Return the hosts that pip is configured to fetch from here, the public index apart."""
    configured = run([sys.executable, "-m", "pip", "config", "list"], folder=folder)
    hosts = {urlsplit(url).hostname for url in _URL.findall(configured)}
    return sorted(host for host in hosts if host and host not in {"pypi.org", "files.pythonhosted.org"})


def _forget_where_it_came_from(component: dict[str, Any]) -> None:
    references = [one for one in component.get("externalReferences", []) if one["type"] not in _FETCHED]
    if references:
        component["externalReferences"] = references
    else:
        component.pop("externalReferences", None)
