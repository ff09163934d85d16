"""What MkDocs calls while it builds the site."""

from __future__ import annotations

import logging
import posixpath
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify
from pymdownx.superfences import fence_code_format

from scripts.site import links, mermaid
from scripts.site.dialect import to_python_markdown

log = logging.getLogger("mkdocs.hooks.tailrace")
MERMAID = "assets/mermaid.min.js"
_NOTE = re.compile(r"\A<!--.*?-->\s*", re.DOTALL)
# The theme asks another server for this program, unless it is there when its own begins.
_BUNDLE = re.compile(r'(<script src="[^"]*/bundle\.[^"]*"></script>)')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let the nav be what is there, headings be named as code hosts name them, and diagrams be drawn if they can be."""
    config.nav = present(config.nav or [])
    config.mdx_configs["toc"] = {"permalink": True, "slugify": slugify(case="lower")}
    program = mermaid.fetch(links.ROOT / "build")
    config.extra["mermaid"] = program
    if program is None:
        log.info("there is no npm, or it gives nothing: the diagrams are shown as text")
    else:
        fence = {"name": "mermaid", "class": "mermaid", "format": fence_code_format}
        config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand at the root of the repository, and those of what pages link to outside of the docs."""
    for uri, name in links.AT_ROOT.items():
        files.append(File.generated(config, uri, abs_src_path=str(links.ROOT / name)))
    if (program := config.extra["mermaid"]) is not None:
        files.append(File.generated(config, MERMAID, abs_src_path=str(program)))
    linked = [
        source for file in files.documentation_pages() for source in links.targets(file.content_string, file.src_uri)
    ]
    while linked:
        source = linked.pop()
        uri = links.uri_of(source)
        if files.get_file_from_path(uri) is not None:
            continue
        if uri.endswith(links.IMAGES):
            files.append(File.generated(config, uri, abs_src_path=str(links.ROOT / source)))
            continue
        files.append(File.generated(config, uri, content=links.page_of(source), inclusion=InclusionLevel.NOT_IN_NAV))
        if (links.ROOT / source).is_dir():
            linked += links.inside(source)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs names them
    """Turn a page of the repository into one of the site."""
    file = page.file
    # What was made for the site has the site's links.
    is_made = file.abs_src_path is None
    # MkDocs takes a page's title from its heading only when that is the first there is.
    markdown = _NOTE.sub("", markdown)
    return to_python_markdown(markdown if is_made else links.rewritten(markdown, file.src_uri))


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Have pages with diagrams load the program that draws them."""
    if config.extra["mermaid"] is None or 'class="mermaid"' not in output:
        return output
    program = posixpath.relpath(MERMAID, posixpath.dirname(page.file.dest_uri) or ".")
    return _BUNDLE.sub(rf'<script src="{program}"></script>\1', output)


def present(nav: list[Any]) -> list[Any]:
    """Return the nav without the pages that are not there yet; ``folder/`` stands for all pages of a folder.

    One that is there and not in the nav is a warning, and so an error of the build: a page cannot be forgotten.
    """
    kept: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            ((title, inner),) = entry.items()
            found = present(inner) if isinstance(inner, list) else present([inner])
            if found:
                kept.append({title: found if isinstance(inner, list) or inner.endswith("/") else inner})
        elif entry.endswith("/"):
            kept += sorted(
                path.relative_to(links.ROOT / links.DOCS).as_posix()
                for path in (links.ROOT / links.DOCS / entry).glob("*.md")
            )
        elif (links.ROOT / links.source_of(entry)).exists():
            kept.append(entry)
    return kept
