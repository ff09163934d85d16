"""Links between the repository's files, which code hosts follow, turned into links between the site's pages.

A file or folder outside of the documentation that a page links to becomes a page of its own, under ``repository/``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# Pages that stand at the root of the repository, by where they stand in the site.
AT_ROOT = {"index.md": "README.md", "architecture.md": "ARCHITECTURE.md", "changelog.md": "CHANGELOG.md"}
DOCS = "docs"
OUTSIDE = "repository"
IMAGES = (".svg", ".png")
_LINK = re.compile(r"(\]\()([^)\s]+)(?=[)\s])|^(\[[^\]]+\]: +)(\S+)", re.MULTILINE)
_FENCED = re.compile(r"^( *)(`{3,}|~{3,})[^\n]*\n.*?^\1\2 *$", re.MULTILINE | re.DOTALL)
# Languages that Pygments does not find by the file's name.
_LANGUAGES = {".conf": "nginx", ".rules": "yaml"}


def source_of(uri: str) -> str:
    """Return where in the repository the page at ``uri`` of the site is written."""
    return AT_ROOT.get(uri) or f"{DOCS}/{uri}"


def uri_of(source: str) -> str:
    """Return where in the site the repository's ``source`` stands, be it a page, a file or a folder."""
    for uri, name in AT_ROOT.items():
        if source == name:
            return uri
    if source.startswith(f"{DOCS}/") and not (ROOT / source).is_dir():
        return source.removeprefix(f"{DOCS}/")
    if (ROOT / source).is_dir():
        inside = source.removeprefix(f"{DOCS}/") if source.startswith(f"{DOCS}/") else f"{OUTSIDE}/{source}"
        return f"{inside}/index.md"
    return f"{OUTSIDE}/{source}" if source.endswith(IMAGES) else f"{OUTSIDE}/{source}.md"


def rewritten(text: str, uri: str) -> str:
    """Return the text of the page at ``uri`` with its links as the site has them."""

    def replaced(target: str) -> str:
        source, anchor = _resolved(uri, target)
        if source is None:
            return target
        return posixpath.relpath(uri_of(source), posixpath.dirname(uri) or ".") + anchor

    return _replace(text, replaced)


def targets(text: str, uri: str) -> list[str]:
    """Return what in the repository the page at ``uri`` links to."""
    found: list[str] = []

    def noted(target: str) -> str:
        source, _ = _resolved(uri, target)
        found.extend([source] if source is not None else [])
        return target

    _replace(text, noted)
    return found


def page_of(source: str) -> str:
    """Return the page for a file or folder outside of the documentation."""
    path = ROOT / source
    title = f"---\nsearch:\n  exclude: true\n---\n\n# {source}\n\n"
    if path.is_dir():
        return title + "".join(f"- [{_title(of)}]({_from(source, of)})\n" for of in inside(source))
    language = _LANGUAGES.get(path.suffix, path.suffix.removeprefix("."))
    return f"{title}`````{language}\n{path.read_text('utf-8').rstrip()}\n`````\n"


def inside(folder: str) -> list[str]:
    """Return the files of a folder of the repository."""
    found = [path for path in (ROOT / folder).iterdir() if path.is_file() and not path.name.startswith(".")]
    return [f"{folder}/{path.name}" for path in sorted(found)]


def _from(folder: str, source: str) -> str:
    return posixpath.relpath(uri_of(source), posixpath.dirname(uri_of(folder)))


def _title(source: str) -> str:
    heading = (
        re.search(r"^# (.+)$", (ROOT / source).read_text("utf-8"), re.MULTILINE) if source.endswith(".md") else None
    )
    return heading[1] if heading is not None else posixpath.basename(source)


def _resolved(uri: str, target: str) -> tuple[str | None, str]:
    """Return the file or folder of the repository that a link names, None when it names none, and its anchor."""
    path, mark, anchor = target.partition("#")
    if not path or re.match(r"[a-z][a-z0-9+.-]*:|/", path):
        return None, ""
    source = posixpath.normpath(posixpath.join(posixpath.dirname(source_of(uri)), path))
    # One that is not there stays as it is, for MkDocs to complain of.
    return (source if (ROOT / source).exists() and not source.startswith("..") else None), mark + anchor


def _replace(text: str, change: Callable[[str], str]) -> str:
    def link(found: re.Match[str]) -> str:
        return f"{found[1]}{change(found[2])}" if found[1] else f"{found[3]}{change(found[4])}"

    parts, end = [], 0
    for start, stop in _code(text):
        parts += [_LINK.sub(link, text[end:start]), text[start:stop]]
        end = stop
    return "".join([*parts, _LINK.sub(link, text[end:])])


def _code(text: str) -> Iterator[tuple[int, int]]:
    return (found.span() for found in _FENCED.finditer(text))
