"""The documentation as a site: complete, linked, and nobody else's business."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from playwright.async_api import Page as BrowserPage

from scripts.site import links, mermaid
from scripts.site.dialect import to_python_markdown
from scripts.site.hooks import present
from tests.browser_support import page as browser_page  # noqa: F401 - a fixture

ROOT = Path(__file__).parent.parent.parent
DRAWN = "() => document.querySelectorAll('pre.mermaid').length === 0 && document.querySelector('div.mermaid') !== null"


class Page(HTMLParser):
    """What a page names, loads and links to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.has_diagram = False
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        self.ids |= {of["id"] or ""} if "id" in of else set()
        self.has_diagram |= of.get("class") == "mermaid"
        if tag == "a" and of.get("href"):
            self.links.append(of["href"] or "")
        elif tag == "link" and of.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(of.get("href") or "")
        elif of.get("src"):
            self.loads.append(of["src"] or "")


def sources() -> list[Path]:
    """The pages as the repository has them."""
    return [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in links.AT_ROOT.values())]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Build it as `make docs` does, but for where it is put."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_page_of_the_repository_is_in_it(site: Path, pages: dict[Path, Page]) -> None:
    """With the title of its own heading."""
    for source in sources():
        path = site / Path(links.uri_of(source.relative_to(ROOT).as_posix())).with_suffix(".html")
        assert path in pages
        heading = re.search(r"^# (.+)$", source.read_text("utf-8"), re.MULTILINE)
        assert heading is not None, source
        text = path.read_text("utf-8")
        assert re.search(r"<h1[^>]*>", text)
        assert re.sub(r"`", "", heading[1])[:20] in re.sub(r"<[^>]+>", "", text.partition("<h1")[2][:500])


def test_a_page_shows_what_the_code_host_shows(site: Path) -> None:
    """As many lists, items, tables, rows, headings and blocks of code as a parser of CommonMark finds in its source."""
    parser = MarkdownIt("commonmark").enable("table")

    def counted(html: str) -> dict[str, int]:
        return {
            tag: len(re.findall(rf"<{tag}[ >]", html)) for tag in ("ul", "ol", "li", "table", "tr", "pre", "h2", "h3")
        }

    for source in sources():
        path = site / Path(links.uri_of(source.relative_to(ROOT).as_posix())).with_suffix(".html")
        article = re.search(r"<article.*</article>", path.read_text("utf-8"), re.DOTALL)
        assert article is not None
        assert counted(article[0]) == counted(parser.render(source.read_text("utf-8"))), source


def test_every_link_leads_to_a_page_and_a_place_on_it(site: Path, pages: dict[Path, Page]) -> None:
    """Those to files outside of the documentation too, which have pages of their own."""
    assert any("repository" in link for page in pages.values() for link in page.links)
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for link in page.links:
            address = urlsplit(link)
            if address.scheme:
                continue
            assert not address.path.startswith("/"), (path, link)
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            assert target.is_file(), (path.relative_to(site), link)
            if address.fragment and target.suffix == ".html":
                assert unquote(address.fragment) in pages[target].ids, (path.relative_to(site), link)


def test_no_page_loads_anything_from_anybody_else(site: Path, pages: dict[Path, Page]) -> None:
    """No font, script, style or picture."""
    for path, page in pages.items():
        assert page.loads
        for address in page.loads:
            assert not urlsplit(address).netloc, (path.relative_to(site), address)
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", style.read_text("utf-8")), style


async def test_a_browser_draws_every_diagram_and_asks_nobody(
    pages: dict[Path, Page],
    browser_page: BrowserPage,  # noqa: F811 - the fixture
) -> None:
    """From the disk, so that the site needs no server."""
    if shutil.which("npm") is None:
        pytest.skip("there is no npm; on Debian: apt-get install npm")
    diagrams = [path for path, made in pages.items() if made.has_diagram]
    assert {"architecture.html", "run-states.html"} <= {path.name for path in diagrams}
    asked: list[str] = []
    wrong: list[str] = []
    browser_page.on("request", lambda request: asked.append(request.url))
    browser_page.on("pageerror", lambda error: wrong.append(str(error)))
    for path in diagrams:
        await browser_page.goto(path.as_uri())
        try:
            await browser_page.wait_for_function(DRAWN)
        finally:
            assert not wrong, (path.name, wrong)
    assert not [address for address in asked if urlsplit(address).scheme not in ("file", "data", "blob")]


def test_links_are_those_of_the_site() -> None:
    """Between pages, to files and folders outside of the documentation, with anchors; others stay as they are."""
    text = (
        "[a](docs/retention.md#switch-it-on) [b](deploy/nginx/tailrace.conf) [c](docs/adr) [d](ARCHITECTURE.md)\n"
        "[e](https://example.org/x.md) [f](#using-it) [g](docs/absent.md) [h](docs/reference/event.schema.json)\n"
        "```md\n[code](docs/retention.md)\n```\n"
        "[ref]: docs/performance.md\n"
    )
    assert links.rewritten(text, "index.md") == (
        "[a](retention.md#switch-it-on) [b](repository/deploy/nginx/tailrace.conf.md) [c](adr/index.md) "
        "[d](architecture.md)\n"
        "[e](https://example.org/x.md) [f](#using-it) [g](docs/absent.md) [h](reference/event.schema.json)\n"
        "```md\n[code](docs/retention.md)\n```\n"
        "[ref]: performance.md\n"
    )
    inside = links.rewritten("[up](../../ARCHITECTURE.md) [code](../../src/tailrace/app.py)", "adr/0001-asyncpg.md")
    assert inside == "[up](../architecture.md) [code](../repository/src/tailrace/app.py.md)"
    # Out of the repository there is nothing to show.
    assert links.targets("[out](../../etc/hosts)", "index.md") == []


def test_the_nav_is_what_is_there() -> None:
    """A page that is not written yet leaves no hole, and a folder stands for its pages."""
    found = present([{"Home": "index.md"}, {"None": [{"Not yet": "absent.md"}]}, {"Decisions": "adr/"}])
    assert found[0] == {"Home": "index.md"}
    assert found[1]["Decisions"][0] == "adr/0001-asyncpg.md"
    assert len(found) == 2


def test_lists_are_those_of_the_code_host() -> None:
    """They may follow a paragraph, nest by two or three columns, and hold code and paragraphs."""
    text = (
        "Two things:\n- one\n  goes on\n  - inner\n\n    its paragraph\n- two:\n\n  ```sh\n  a\n    b\n\n"
        "  - c\n  ```\n\nAfter.\n1. first\n   lazy\nlazier\n2. second\n\nIn 1999\n2000. was no item\n"
    )
    assert to_python_markdown(text) == (
        "Two things:\n\n- one\n    goes on\n    - inner\n\n        its paragraph\n- two:\n\n    ```sh\n    a\n"
        "      b\n\n    - c\n    ```\n\nAfter.\n\n"
        "1. first\n    lazy\n    lazier\n2. second\n\nIn 1999\n2000. was no item\n"
    )
    assert to_python_markdown("| `a\\|b` | c |") == "| <code>a&#124;b</code> | c |\n"


def test_another_program_than_the_one_that_was_looked_at_is_not_used(tmp_path: Path) -> None:
    """Whatever the registry gives under that version."""
    file = tmp_path / f"mermaid-{mermaid.VERSION}.min.js"
    file.write_text("alert(1)")
    with pytest.raises(ValueError, match="SHA-256"):
        mermaid.fetch(tmp_path)
    assert not file.exists()
