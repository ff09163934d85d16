"""The page and its files over HTTP: public, cheap, and bound by a policy that lets them do nothing but their work."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from importlib import resources
from pathlib import Path

import httpx2
import pytest

from tailrace.http.console import pages
from tailrace.settings import Settings
from tests.outage_support import served
from tests.patience import PATIENCE_SECONDS
from tests.read_support import Reading, reading
from tests.security.conftest import Keys

FILES = resources.files("tailrace.http.console").joinpath("files")
NAMES = sorted(file.name for file in FILES.iterdir())
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@pytest.fixture
async def keyed(settings: Callable[..., Settings], tmp_path: Path) -> AsyncIterator[Reading]:
    """A server that asks for keys."""
    keys = Keys(tmp_path / "keys.json")
    keys.make("acme")
    async with reading(settings(api_keys_file=keys.path)) as made:
        yield made


@pytest.fixture
async def http(keyed: Reading) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=keyed.url, timeout=PATIENCE_SECONDS) as client:
        yield client


async def test_the_page_and_its_files_are_public_and_bound_by_the_policy(http: httpx2.AsyncClient) -> None:
    """Also where keys are configured; each with its type, a tag and the headers that keep browsers from harm."""
    for path in ("/console", *(f"/console/{name}" for name in NAMES if name != "console.html")):
        answer = await http.get(path)
        assert answer.status_code == 200, path
        kind = path.rpartition(".")[2] if "." in path else "html"
        assert answer.headers["content-type"] == pages.MEDIA_TYPES[kind]
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-cache"
        head = await http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "content-type", "etag", "content-security-policy"):
            assert head.headers[name] == answer.headers[name]
        tag = answer.headers["etag"]
        for sent in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = await http.get(path, headers={"If-None-Match": sent})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
            assert again.headers["content-security-policy"] == POLICY
        assert (await http.get(path, headers={"If-None-Match": '"other"'})).status_code == 200
    assert (await http.get("/api/agents/runs")).status_code == 401


async def test_nothing_else_lies_under_the_path(http: httpx2.AsyncClient) -> None:
    """Neither the code beside the files nor what is above them; the address with a slash leads to the one without."""
    for path in ("pages.py", "__init__.py", "console.html", "..%2fpages.py", "%2e%2e/api.py", "files/main.js", "x%00"):
        answer = await http.get(f"/console/{path}")
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"
    moved = await http.get("/console/")
    assert (moved.status_code, moved.headers["location"]) == (308, "../console")
    assert (await http.post("/console")).status_code == 405
    assert "/console" not in (await http.get("/openapi.json")).json()["paths"]


async def test_a_key_in_its_address_is_refused(keyed: Reading, tmp_path: Path) -> None:
    """As anywhere: whoever pastes it there is told that it has leaked."""
    key = Keys(tmp_path / "keys.json").make("acme")
    async with httpx2.AsyncClient(base_url=keyed.url, timeout=PATIENCE_SECONDS) as http:
        assert (await http.get(f"/console?key={key}")).status_code == 400


async def test_it_is_served_by_the_api_and_only_to_this_machine_without_keys(settings: Callable[..., Settings]) -> None:
    """A process of another role has none, and a foreign Host is misdirected."""
    async with (
        served(settings(), role="api") as api,
        httpx2.AsyncClient(base_url=api.address, timeout=PATIENCE_SECONDS) as http,
    ):
        assert (await http.get("/console")).status_code == 200
        for path in ("/console", "/console/main.js"):
            assert (await http.get(path, headers={"Host": "tailrace.example"})).status_code == 421
    async with (
        served(settings(), role="outbox") as outbox,
        httpx2.AsyncClient(base_url=outbox.address, timeout=PATIENCE_SECONDS) as http,
    ):
        assert (await http.get("/console")).status_code == 404


def test_the_files_ask_for_nothing_from_elsewhere_and_make_no_markup() -> None:
    """No scheme, no inline script or style, no way from text to markup or code, and no address from the root."""
    forbidden = re.compile(
        r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function"
        r"|createContextualFragment|DOMParser|\bstyle=|\bon[a-z]+=\"|javascript:|localStorage|cookie|@import|url\("
    )
    for name in NAMES:
        text = FILES.joinpath(name).read_text("utf-8")
        assert forbidden.search(text) is None, (name, forbidden.search(text))
        # Mounted under a prefix, an address that begins with a slash leads to another application.
        assert re.search(r"""(?:src|href)=["']/|["'`]/api""", text) is None, name
    page = FILES.joinpath("console.html").read_text("utf-8")
    for script in re.findall(r"<script.*?</script>", page, re.DOTALL):
        assert re.fullmatch(r'<script type="module" src="console/\w+\.js"></script>', script)
    assert "<style" not in page


def test_every_file_that_is_named_is_there_and_every_file_is_named() -> None:
    """By the page, or by a module that another one imports; a name that a module imports is exported there, and
    one that is exported is imported.
    """
    texts = {name: FILES.joinpath(name).read_text("utf-8") for name in NAMES}
    named = set(re.findall(r'(?:src|href)="console/([\w.]+)"', texts["console.html"]))
    wanted = set()
    for name, text in texts.items():
        for imported, module in re.findall(r'^import \{([^}]*)\} from "\./([\w.]+)";$', text, re.MULTILINE):
            named.add(module)
            for word in re.findall(r"\w+", imported):
                wanted.add((module, word))
                exported = rf"^export (?:async )?(?:function|class|const) {word}\b"
                assert re.search(exported, texts[module], re.MULTILINE), (name, module, word)
    assert named | {"console.html"} == set(NAMES)
    exports = re.compile(r"^export (?:async )?(?:function|class|const) (\w+)", re.MULTILINE)
    assert {(name, word) for name, text in texts.items() for word in exports.findall(text)} == wanted
    assert all(len(text.splitlines()) < 300 for name, text in texts.items() if name.endswith(".js"))
