"""Which licences come with a release: read from each package's metadata, and refused outside a list."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.release.commands import run
from scripts.release.refusal import refuse

# Permissive ones, and those whose copyleft ends at the library or the file. SPDX identifiers.
ALLOWED = frozenset(
    {
        "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "PSF-2.0", "PostgreSQL",
        "Python-2.0", "Unlicense", "Zlib", "BSL-1.0", "Apache-2.0 WITH LLVM-exception",
        "LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later", "MPL-2.0",
    }
)  # fmt: skip
# What older metadata says instead of an identifier. "BSD License" alone names no text; all it may mean is allowed.
_MEANT = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
_CLASSIFIER = re.compile(r"License :: (?:OSI Approved :: )?(.+)")
_WORD = re.compile(r"\(|\)|[^\s()]+")
# Longer than that, the field holds the whole text.
_NAME_MAX = 100

# Run by the Python of the environment that is looked at.
_LIST = """
import json
from importlib.metadata import distributions
print(json.dumps([
    {"name": found.metadata["Name"], "version": found.version,
     "expression": found.metadata["License-Expression"], "field": found.metadata["License"],
     "classifiers": found.metadata.get_all("Classifier", [])}
    for found in distributions()
]))
"""


@dataclass(frozen=True, slots=True)
class Licence:
    """What a package is under: an SPDX expression where its metadata names one, ``unknown`` where it says nothing."""

    package: str
    version: str
    expression: str


def licences_in(python: Path, folder: Path) -> list[Licence]:
    """Return the licence of every package in an environment, by name."""
    found = json.loads(run([python, "-c", _LIST], folder=folder))
    return sorted(
        (
            Licence(one["name"], one["version"], expression_of(one["expression"], one["field"], one["classifiers"]))
            for one in found
        ),
        key=lambda licence: licence.package.lower(),
    )


def expression_of(expression: str | None, field: str | None, classifiers: Sequence[str]) -> str:
    """Return what the metadata means, from the most exact thing it says to the least."""
    if expression:
        return expression
    if field and "\n" not in field.strip() and len(field) < _NAME_MAX:
        return _MEANT.get(field.strip().lower(), field.strip())
    named = [match[1] for classifier in classifiers if (match := _CLASSIFIER.fullmatch(classifier))]
    # Which of several holds, or whether all do, classifiers do not say: then all must be allowed.
    return " AND ".join(_MEANT.get(name.lower(), name.replace(" ", "-")) for name in named) or "unknown"


def require_allowed(licences: Sequence[Licence]) -> None:
    """Refuse packages under anything that is not in the list, by name."""
    refuse(
        "these packages are under licences that scripts/release/licences.py does not allow",
        [f"{one.package} {one.version}: {one.expression}" for one in licences if not is_allowed(one.expression)],
    )


def is_allowed(expression: str) -> bool:
    """Whether an SPDX expression can be met by allowed licences alone; what cannot be read is not."""
    if expression in ALLOWED:
        return True
    words = _WORD.findall(expression)
    try:
        verdict = _either(words)
    except (IndexError, ValueError):
        return False
    return verdict and not words


def _either(words: list[str]) -> bool:
    verdict = _both(words)
    while words and words[0].upper() == "OR":
        words.pop(0)
        verdict = _both(words) or verdict
    return verdict


def _both(words: list[str]) -> bool:
    verdict = _one(words)
    while words and words[0].upper() == "AND":
        words.pop(0)
        verdict = _one(words) and verdict
    return verdict


def _one(words: list[str]) -> bool:
    word = words.pop(0)
    if word == "(":
        verdict = _either(words)
        if words.pop(0) != ")":
            raise ValueError(words)
        return verdict
    if words and words[0].upper() == "WITH":
        words.pop(0)
        return f"{word} WITH {words.pop(0)}" in ALLOWED
    return word in ALLOWED


def licence_list(licences: Sequence[Licence], version: str) -> str:
    """Return the list as a page of Markdown."""
    rows = [f"| {one.package} | {one.version} | {one.expression} |" for one in licences]
    return (
        f"# Licences of tailrace {version} and of what it installs, all extras included\n\n"
        "| package | version | licence |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )
