"""Keys on the page: asked for when the API wants one, kept no longer than the tab, and sent where they belong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from playwright.async_api import Page, Request, expect

from tailrace.access.principal import Scope
from tailrace.bus.local_first import LocalFirst
from tailrace.settings import Settings
from tailrace.store.database import Database
from tests.console.console_page import Console
from tests.patience import PATIENCE_SECONDS
from tests.read_support import RUNS, HandWrittenRun, ServerProcess, execute, publish_all
from tests.security.conftest import Keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys.json")


@pytest.fixture
def reader(keys: Keys) -> str:
    return keys.make("acme", Scope.RUNS_READ)


@pytest.fixture
def other_reader(keys: Keys) -> str:
    return keys.make("acme", Scope.RUNS_READ)


@pytest.fixture
def api(settings: Callable[..., Settings], keys: Keys, reader: str, other_reader: str) -> Iterator[ServerProcess]:
    """A process that asks for one of these keys, and whose stream tokens open a stream for two seconds only."""
    with ServerProcess(
        settings(),
        TAILRACE_API_KEYS_FILE=str(keys.path),
        TAILRACE_STREAM_TOKEN_SECONDS="2",
        TAILRACE_STREAM_TOKEN_RESUME_SECONDS="2",
    ) as started:
        yield started


async def run_of(database: Database, tenant: str, run_id: str) -> HandWrittenRun:
    run = await HandWrittenRun.start(database, run_id)
    await execute(database, "update tailrace.runs set tenant = $1 where id = $2", tenant, run_id)
    return run


async def test_a_key_is_asked_for_kept_for_the_tab_and_forgotten(
    page: Page, api: ServerProcess, reader: str, database: Database
) -> None:
    """A wrong one is told as the API says it; it stands in no URL, and lies in session storage alone."""
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    for tenant in ("acme", "globex"):
        await run_of(database, tenant, f"of-{tenant}")
    console = Console(page, api.url)
    await console.open()
    await expect(console.find("#key")).to_contain_text("session storage")
    await console.give_key("two words")
    await console.says("#key .fault", "A key is one word")
    await console.give_key("tr_wrong_key")
    await console.says("#key .why", "Unauthorized: the key is not known, or was revoked")
    await console.give_key(reader)
    await expect(console.find(".runs tbody tr")).to_have_count(1)
    assert await console.ids() == ["of-acme"]
    await expect(console.find("#notice")).to_be_hidden()

    await page.reload()
    await expect(console.find(".runs tbody tr")).to_have_count(1)
    stored = await page.evaluate("[JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie]")
    assert reader in stored[0]
    assert reader not in stored[1] + stored[2]
    assert not any(reader in address for address in addresses)

    # What the key may not is told: the scope is missing, and another tenant's run is not there.
    await page.get_by_role("link", name="of-acme").click()
    await console.button("Cancel the run").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    await console.says(".title + .told", "Not cancelled. Forbidden: this key has not the scope runs:write")
    await page.evaluate("location.hash = '#start'")
    await page.get_by_label("Agent").fill("echo")
    await console.button("Start").click()
    await console.says("main .told", "Not started. Forbidden: this key has not the scope runs:write")
    await page.evaluate("location.hash = '#run=of-globex'")
    await console.says("#notice", "Not Found: there is no run 'of-globex'")

    await console.button("Forget the key").click()
    await expect(console.find("#key")).to_be_visible()
    assert await page.evaluate("sessionStorage.length") == 0
    await console.button("Not now").click()
    await console.says("#notice", "Unauthorized: a key is needed")
    await console.button("Enter a key").click()
    await console.give_key(reader)
    await console.says("#notice", "Not Found: ")


async def test_a_stream_whose_token_is_too_old_goes_on_with_another(
    page: Page, api: ServerProcess, reader: str, database: Database, bus: LocalFirst
) -> None:
    """The server is away until the token opens nothing any more; each event is put on the page once."""
    streams: list[Request] = []
    page.on("request", lambda request: streams.append(request) if "/stream?" in request.url else None)
    run = await run_of(database, "acme", "r")
    await run.append_many(10)
    await publish_all(database, bus)
    console = Console(page, api.url)
    await console.open("#run=r")
    await console.give_key(reader)
    await expect(console.find(".log li")).to_have_count(11)
    first = streams[-1].url
    # Until then it may be let in; the server is the judge, so it is asked.
    async with (
        httpx2.AsyncClient(base_url=api.url, timeout=PATIENCE_SECONDS) as http,
        asyncio.timeout(PATIENCE_SECONDS),
    ):
        while (await http.get(first, headers={"Last-Event-ID": "999"})).status_code != 401:  # noqa: ASYNC110 - time is it
            await asyncio.sleep(0.05)
    await asyncio.to_thread(api.kill)
    await run.append_many(10)
    await publish_all(database, bus)
    await asyncio.to_thread(api.start)
    await expect(console.find(".log li")).to_have_count(21)
    await run.append_many(10)
    await run.finish()
    await publish_all(database, bus)
    await console.says(".line", "complete")
    assert await page.evaluate("window.put") == list(range(1, 33))
    queries = [parse_qs(urlsplit(request.url).query) for request in streams]
    assert queries[0]["fromSeq"] == ["0"]
    assert queries[-1]["fromSeq"] == ["11"]
    assert queries[-1]["token"] != queries[0]["token"]
    assert not any(reader in request.url for request in streams)


async def test_a_key_that_is_revoked_while_a_run_is_followed_is_told(
    page: Page, api: ServerProcess, keys: Keys, reader: str, other_reader: str, database: Database, bus: LocalFirst
) -> None:
    """The stream ends, the page asks for another key, and goes on with it."""
    run = await run_of(database, "acme", "r")
    await publish_all(database, bus)
    console = Console(page, api.url)
    await console.open("#run=r")
    await console.give_key(reader)
    await console.says(".line", "live")
    keys.revoke(reader)
    await console.says("#key .why", "Unauthorized: the key is not known, or was revoked")
    await run.finish()
    await publish_all(database, bus)
    await console.give_key(other_reader)
    await console.says(".line", "complete")
    await console.draws([1, 2])
    async with httpx2.AsyncClient(base_url=api.url, timeout=PATIENCE_SECONDS) as http:
        assert (await http.get(RUNS, headers={"Authorization": f"Bearer {reader}"})).status_code == 401
