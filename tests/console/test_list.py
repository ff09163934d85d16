"""The list of runs in a real browser."""

from __future__ import annotations

from collections.abc import Callable

from playwright.async_api import Page, expect

from tailrace.bus.local_first import LocalFirst
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.runs import Runs
from tests.archive_support import generated
from tests.browser_support import HostProcess
from tests.console.console_page import Console, stop_clock
from tests.read_support import HandWrittenRun, ServerProcess, away, execute, publish_all, reading


async def test_the_newest_runs_come_first_are_filtered_paged_and_refreshed(
    page: Page, api: ServerProcess, database: Database, bus: LocalFirst, runs: Runs
) -> None:
    """60 old runs and some of today; a link to a page of them can be shared, and a new run appears by itself."""
    await generated(database, 60, 3)
    await execute(database, "update tailrace.runs set created_at = now() - interval '41 days'")
    for run_id in ("first", "second"):
        await HandWrittenRun.start(database, run_id)
    await publish_all(database, bus)
    ended = await HandWrittenRun.start(database, "third")
    await ended.append_many(3)
    await stop_clock(page)
    console = Console(page, api.url)
    await console.open()
    rows = console.find(".runs tbody tr")
    await expect(rows).to_have_count(50)
    assert (await console.ids())[:4] == ["third", "second", "first", "g000060"]
    newest = rows.first
    for cell, text in (("state", "started"), ("agent", "by-hand:third"), ("last", "4"), ("backlog", "4")):
        await expect(newest.locator(f"td.{cell}")).to_have_text(text)
    utc = await newest.locator("time").get_attribute("title")
    assert utc is not None
    assert utc.endswith(" UTC")
    # Nobody touches the page.
    await ended.finish()
    await publish_all(database, bus)
    await HandWrittenRun.start(database, "fourth")
    await page.clock.run_for(5_000)
    await expect(rows.first.locator("td.id")).to_have_text("fourth")
    await expect(rows.nth(1).locator("td.state")).to_have_text("finished")
    await expect(rows.nth(1).locator("td.backlog")).to_have_text("0")

    await page.get_by_role("link", name="Older").click()
    await expect(rows.first.locator("td.id")).to_have_text("g000014")
    await expect(rows).to_have_count(14)
    await page.reload()
    await expect(rows).to_have_count(14)
    await page.get_by_role("link", name="Newest").click()
    await expect(rows.first.locator("td.id")).to_have_text("fourth")

    await page.get_by_label("State").select_option("started")
    await expect(rows).to_have_count(3)
    assert await console.ids() == ["fourth", "second", "first"]
    await page.get_by_label("Agent").fill("by-hand:second")
    await page.keyboard.press("Enter")
    await expect(rows).to_have_count(1)
    assert page.url.endswith("#state=started&agent=by-hand%3Asecond")
    await page.get_by_role("link", name="second").click()
    await expect(console.find("h1")).to_have_text("second")
    assert page.url.endswith("#run=second")
    await page.go_back()
    await expect(rows).to_have_count(1)
    await page.get_by_label("Agent").fill("nobody")
    await page.keyboard.press("Enter")
    await console.says(".empty", "No runs are like this.")
    assert console.complaints == []


async def test_a_hidden_tab_asks_for_nothing(page: Page, settings: Callable[..., Settings]) -> None:
    """However long it is hidden; it looks at once when it is seen again, and then every five seconds."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/api/" in request.url else None)
    await stop_clock(page)
    async with reading(settings()) as server:
        console = Console(page, server.url)
        await console.open()
        await console.says(".empty", "No runs yet.")
        await console.hide(hidden=True)
        await server.run("r")
        asked.clear()
        await page.clock.run_for(3_600_000)
        assert asked == []
        await console.hide(hidden=False)
        await expect(console.find(".runs tbody tr")).to_have_count(1)
        await server.run("s")
        await page.clock.run_for(5_000)
        await expect(console.find(".runs tbody tr")).to_have_count(2)
    assert len(asked) == 2


async def test_postgres_away_is_told_in_the_words_of_the_problem(page: Page, settings: Callable[..., Settings]) -> None:
    """The title and the detail, that it is tried again, and nothing of it once Postgres is back."""
    await stop_clock(page)
    async with reading(settings()) as server:
        await server.run("r")
        console = Console(page, server.url)
        await console.open()
        await expect(console.find(".runs tbody tr")).to_have_count(1)
        with away(server.services):
            await page.reload()
            await console.says("#notice", "Service Unavailable: ")
            await console.says("#notice", "It is tried again in 5 s.")
            await page.clock.run_for(5_000)
            await console.says("#notice", "It is tried again in 10 s.")
        await page.clock.run_for(10_000)
        await expect(console.find("#notice")).to_be_hidden()
        await expect(console.find(".runs tbody tr")).to_have_count(1)


async def test_it_works_where_the_app_is_mounted(
    page: Page, host: HostProcess, database: Database, bus: LocalFirst
) -> None:
    """Under a prefix of somebody's application: page, files, API and stream; the address with a slash too."""
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(3)
    await run.finish()
    await publish_all(database, bus)
    console = Console(page, f"{host.url}/tailrace")
    await console.open("/")
    assert page.url == f"{host.url}/tailrace/console"
    await page.get_by_role("link", name="r", exact=True).click()
    await console.says(".line", "complete")
    await console.draws([1, 2, 3, 4, 5])
    assert console.complaints == []
