"""A view that was left, while an answer was on its way to it, lets the next one be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Page, Route, expect

from tailrace.bus.local_first import LocalFirst
from tailrace.store.database import Database
from tailrace.store.runs import Runs
from tests.console.console_page import Console
from tests.patience import PATIENCE_SECONDS
from tests.read_support import HandWrittenRun, ServerProcess, execute, publish_all

# Notes what is told of a stream before the run that it belongs to is shown.
EARLY = """
window.early = [];
new MutationObserver(() => {
    const line = document.querySelector('.line');
    if (line && line.textContent && line.closest('.body').hidden) window.early.push(line.textContent);
}).observe(document, { childList: true, subtree: true, characterData: true });
"""


async def a_live_and_an_ended_run(database: Database, bus: LocalFirst) -> None:
    """Write ``a``, which goes on, and ``b``, which has ended."""
    await HandWrittenRun.start(database, "a")
    await (await HandWrittenRun.start(database, "b")).finish()
    await publish_all(database, bus)


@asynccontextmanager
async def cancelling(console: Console) -> AsyncIterator[None]:
    """Cancel the run that is shown; its view has the answer, and is done with it, only after the block."""
    page = console.page
    sent, released = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        sent.set()
        await released.wait()
        await route.continue_()

    await page.route("**/cancel", hold)
    button = await console.find(".cancel").element_handle()
    await console.button("Cancel the run").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await sent.wait()
    try:
        yield
    finally:
        released.set()
    # It stands on no page any more, but the last that its view does is to give it back.
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await button.evaluate("(button) => button.disabled"):  # noqa: ASYNC110 - the browser tells nobody
            await asyncio.sleep(0.02)


async def test_an_answer_to_a_cancel_is_not_drawn_on_another_run(
    page: Page, api: ServerProcess, database: Database, bus: LocalFirst, runs: Runs
) -> None:
    """The run is cancelled all the same; the one that is shown keeps its title, state, facts and words."""
    await a_live_and_an_ended_run(database, bus)
    console = Console(page, api.url)
    await console.open("#run=a")
    await console.says(".line", "live")
    async with cancelling(console):
        await page.evaluate("location.hash = '#run=b'")
        await expect(console.find("h1")).to_have_text("b")
        await console.says(".line", "complete")
        await console.says(".range", "1 to 2 of 2")
        shown = await console.find("#main").inner_text()
    assert (await runs.get("a")).cancel_requested_at is not None
    assert (await page.title()).startswith("finished: b ")
    assert await console.find(".title .state").get_attribute("data-state") == "finished"
    assert await console.find("#main").inner_text() == shown
    assert await console.find("#announcer").inner_text() == ""
    assert console.complaints == []


async def test_an_answer_to_a_cancel_does_not_stop_the_list(
    page: Page, api: ServerProcess, database: Database, bus: LocalFirst, runs: Runs
) -> None:
    """Its rows stay what they are, and it goes on to be refreshed."""
    await a_live_and_an_ended_run(database, bus)
    await page.clock.install()
    console = Console(page, api.url)
    await console.open("#run=a")
    await console.says(".line", "live")
    rows = console.find(".runs tbody tr")
    async with cancelling(console):
        await page.get_by_role("link", name="All runs").click()
        await expect(rows).to_have_count(2)
    assert (await runs.get("a")).cancel_requested_at is not None
    assert await console.find("td.state > span.state").all_text_contents() == ["finished", "started"]
    assert (await page.title()).startswith("Runs ")
    for count, run_id in ((3, "c"), (4, "d")):
        await HandWrittenRun.start(database, run_id)
        await page.clock.run_for(5_000)
        await expect(rows).to_have_count(count)
    assert console.complaints == []


async def test_a_question_that_nobody_answered_is_taken_back_with_its_page(
    page: Page, api: ServerProcess, database: Database, bus: LocalFirst
) -> None:
    """Who goes elsewhere by the browser's own buttons has not said yes, and is asked again when it is asked again."""
    await a_live_and_an_ended_run(database, bus)
    posts: list[str] = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    console = Console(page, api.url)
    await console.open("#run=b")
    await console.says(".line", "complete")
    await page.evaluate("location.hash = '#run=a'")
    await console.says(".line", "live")
    await console.button("Cancel the run").click()
    await expect(console.find("#confirm")).to_be_visible()
    await page.go_back()
    await expect(console.find("h1")).to_have_text("b")
    await console.says(".line", "complete")
    await expect(console.find("#confirm")).to_be_hidden()
    await page.go_forward()
    await console.says(".line", "live")
    assert posts == []
    await console.button("Cancel the run").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    await console.says(".title + .told", "Cancelling is accepted")
    assert len(posts) == 1
    assert console.complaints == []


async def test_a_stream_of_an_earlier_run_of_this_name_tells_nothing_to_the_next(
    page: Page, api: ServerProcess, database: Database, bus: LocalFirst
) -> None:
    """Purged, started again and ended meanwhile: the page begins anew, and says how that one is, not the first."""
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(5)
    await publish_all(database, bus)
    console = Console(page, api.url)
    await page.add_init_script(EARLY)
    await console.open("#run=r")
    await console.says(".line", "live")
    await asyncio.to_thread(api.kill)
    for table, column in (("run_outbox", "run_id"), ("run_events", "run_id"), ("runs", "id")):
        await execute(database, f"delete from tailrace.{table} where {column} = 'r'")
    await (await HandWrittenRun.start(database, "r")).finish()
    await publish_all(database, bus)
    await asyncio.to_thread(api.start)
    await console.says(".range", "1 to 2 of 2")
    await console.says(".line", "complete")
    assert await page.evaluate("window.early") == []
