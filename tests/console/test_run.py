"""One run in a real browser: its row, its nodes, and its events, each once, however long it is and whatever it says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from tailrace.bus.local_first import LocalFirst
from tailrace.model import draft
from tailrace.model.run import RunState
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.runs import RunRequest, Runs
from tests.archive_support import archive_all, finished, objects_in
from tests.console.console_page import Console
from tests.read_support import HandWrittenRun, ServerProcess, custom, execute, publish_all, reading

T = 1_790_000_000_000
# Reverses what follows it, where it is not held back.
OVERRIDE = "\u202e"
HOSTILE = f"<img src=x onerror=\"document.title='owned'\">{OVERRIDE}gpj</script><script>document.title='owned'</script>"


async def test_a_live_run_is_watched_to_its_end_through_a_restart_of_the_server(
    page: Page, api: ServerProcess, database: Database, bus: LocalFirst
) -> None:
    """And through a time in which its tab is hidden: each event is put on the page once and in order; the line says how
    it is, and the end is complete.
    """
    run = await HandWrittenRun.start(database, "r")
    await run.append(draft.node_started("Read", T), draft.node_started("Read", T + 100))
    await run.append(draft.node_finished("Read", T + 1500), draft.node_started("Think", T + 1500))
    await publish_all(database, bus)
    console = Console(page, api.url)
    await console.open("#run=r")
    await console.says(".line", "live")
    await expect(console.find(".log li")).to_have_count(5)
    await console.says(".nodes li:has-text('Read')", "1 running")
    await console.says(".nodes li:has-text('Think')", "so far")

    await asyncio.to_thread(api.kill)
    await console.says(".line", "reconnecting")
    await console.says("#notice", "No answer: ")
    await run.append(draft.node_finished("Read", T + 2000), *(custom({"done": number}) for number in range(20)))
    await publish_all(database, bus)
    await asyncio.to_thread(api.start)
    await expect(console.find(".log li")).to_have_count(26)
    await console.says(".line", "live")
    await expect(console.find("#notice")).to_be_hidden()
    await console.hide(hidden=True)
    await console.says(".line", "paused")
    await run.append_many(20, {"text": "x" * 500})
    await publish_all(database, bus)
    await console.hide(hidden=False)
    await expect(console.find(".log li")).to_have_count(46)
    await run.finish()
    await publish_all(database, bus)

    await console.says(".line", "complete")
    await console.says(".title .state", "finished")
    await console.draws(range(1, 48))
    assert await page.evaluate("window.put") == list(range(1, 48))
    await console.says(".nodes li:has-text('Read')", "2 times, longest 1.9 s")
    await console.says(".nodes li:has-text('Think')", "did not finish")
    await console.says(".facts", "Backlog0")
    await expect(console.button("Cancel the run")).to_be_hidden()
    # What is long is opened, and then it is whole.
    await console.find(".log summary").first.click()
    await console.says(".log details[open] pre", "x" * 500)
    # Nothing is asked for any more: reloaded, the page gets all of it and 204 is not an error.
    await page.reload()
    await console.says(".line", "complete")
    await console.draws(range(1, 48))


async def test_of_a_long_run_some_hundreds_of_events_are_on_the_page(
    page: Page, api: ServerProcess, database: Database, bus: LocalFirst
) -> None:
    """6,000 at first and 3,000 more while it is shown; earlier ones come when they are asked for, nodes too."""
    run = await HandWrittenRun.start(database, "r")
    await run.append(draft.node_started("First", T), draft.node_finished("First", T + 3000))
    await run.append(draft.node_started("All", T))
    await run.append_many(5996)
    await publish_all(database, bus)
    console = Console(page, api.url)
    await console.open("#run=r")
    await console.says(".range", "to 6,000 of 6,000")
    await console.draws(range(5701, 6001))
    await run.append_many(2998)
    await run.append(draft.node_finished("All", T + 60_000), draft.node_started("Late", T + 60_000))
    await publish_all(database, bus)
    await console.says(".range", "8,701 to 9,000 of 9,000")
    await console.draws(range(8701, 9001))

    await console.says(".nodes li:has-text('All')", "began earlier")
    await console.button("Read the earlier ones too").click()
    await console.says(".nodes li:has-text('First')", "3.0 s")
    await console.says(".nodes li:has-text('All')", "1 min 0 s")
    await console.says(".nodes li:has-text('Late')", "so far")

    await console.button("Earlier").click()
    await console.says(".range", "8,551 to 8,850 of 9,000; 150 later")
    await console.draws(range(8551, 8851))
    await console.button("Oldest").click()
    await console.says(".range", "1 to 150 of 9,000")
    await console.button("Later").click()
    await console.says(".range", "1 to 300 of 9,000")
    await console.button("Later").click()
    await console.says(".range", "151 to 450 of 9,000")
    await console.draws(range(151, 451))
    # What is new is counted, and does not move what is read.
    await run.append_many(10)
    await publish_all(database, bus)
    await console.says(".range", "151 to 450 of 9,010; 8,560 later")
    await console.button("Newest").click()
    await console.says(".range", "8,711 to 9,010 of 9,010")

    await page.get_by_label("Type").select_option("NodeStarted")
    await console.says(".range", "1 of type NodeStarted among ")
    await console.draws([9000])
    await console.button("Oldest").click()
    await console.says(".range", "2 of type NodeStarted among 1 to 1,000")
    await console.draws([2, 4])
    assert await page.evaluate("window.most") == 300
    assert console.complaints == []

    # Purged and started again under its id it is another run, and the page begins anew.
    await asyncio.to_thread(api.kill)
    for table in ("run_outbox", "run_events", "runs"):
        await execute(database, f"delete from tailrace.{table} where {'id' if table == 'runs' else 'run_id'} = 'r'")
    await HandWrittenRun.start(database, "r")
    await publish_all(database, bus)
    await asyncio.to_thread(api.start)
    await console.says(".range", "1 to 1 of 1")


async def test_what_a_run_says_is_text_and_nothing_else(
    page: Page, settings: Callable[..., Settings], database: Database, runs: Runs
) -> None:
    """Markup, scripts, characters that reverse others, and very long names: in the list, and everywhere on its page."""
    of_input = f'{{"number":12345678901234567890,{json.dumps(HOSTILE)}:[{json.dumps(HOSTILE)}]}}'
    await runs.create(RunRequest("bad", f"agent {HOSTILE}"[:128], of_input, T))
    run = await HandWrittenRun.start(database, "r")
    long = "W" * 256
    await run.append(
        draft.node_started("<b>Node</b>", T), draft.node_finished("<b>Node</b>", T + 5), draft.node_started(long, T),
        custom({"__proto__": HOSTILE, "long": HOSTILE * 20, "n": 0.10000000000000000001}, name="<svg onload=alert(1)>"),
        draft.debug_trace("<script>1</script>", T),
        draft.run_failed(ValueError(HOSTILE), T + 9, max_bytes=1 << 16),
        state=RunState.FAILED,
    )  # fmt: skip
    async with reading(settings()) as server:
        await server.publish()
        console = Console(page, server.url)
        await page.set_viewport_size({"width": 360, "height": 640})
        await console.open()
        await console.says(".runs", "agent <img src=x onerror=")
        await page.get_by_role("link", name="bad").click()
        await console.says(".input pre", '"number": 12345678901234567890')
        await console.says(".input pre", "\\u202e")
        await page.evaluate("location.hash = '#run=r'")
        await expect(console.find(".log li")).to_have_count(7)
        await console.says(".failure .message", HOSTILE.replace(OVERRIDE, "\\u202e"))
        await console.says(".log li:nth-child(5)", "<svg onload=alert(1)>")
        await console.find(".log summary").first.click()
        await console.says(".log pre", HOSTILE.replace(OVERRIDE, "\\u202e").replace('"', '\\"'))
        await console.says(".log pre", "__proto__")
        await console.says(".nodes", "<b>Node</b>")
        await console.says(".nodes", long)
        for fragment in ("#run=r", "#run=bad", f"#run={HOSTILE}", "#state=<b>&agent=<b>", "#cursor=%00"):
            await page.evaluate("(fragment) => { location.hash = fragment; }", fragment)
            await expect(console.find("h1")).to_be_visible()
            assert await console.find("img, svg, iframe, b, main script, [onerror]").count() == 0
            assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        assert "owned" not in await page.title()
        # Refusals of the API are noted by the browser itself; a violation of the policy would be another text.
        assert [text for text in console.complaints if not text.startswith("Failed to load resource: ")] == []


async def test_an_archived_run_is_as_any_other(
    page: Page, settings: Callable[..., Settings], database: Database, tmp_path: Path
) -> None:
    """Its events come from the archive, by the same addresses; those that are lost for good are said to be."""
    await finished(database, "old", events=40)
    assert (await archive_all(database, tmp_path)).runs == 1
    with ServerProcess(settings(), TAILRACE_ARCHIVE_URL=str(tmp_path)) as api:
        console = Console(page, api.url)
        await console.open("#run=old")
        await console.says(".line", "complete")
        await console.draws(range(1, 44))
        await page.get_by_label("Type").select_option("RunFinished")
        await console.draws([43])
        assert console.complaints == []
        for path in objects_in(tmp_path):
            path.unlink()
        # It remembers what it has read.
        await asyncio.to_thread(api.kill)
        await asyncio.to_thread(api.start)
        await page.reload()
        await console.says(".log .told", "Events up to 42 are gone for good.")
        await console.says(".line", "complete")
        await console.draws([43])


async def test_runs_are_started_and_cancelled(page: Page, settings: Callable[..., Settings]) -> None:
    """What is wrong with the form is said at its place; 202 and 409 are told; the number is sent as it was written."""
    bodies: list[Any] = []
    page.on("request", lambda request: bodies.append(request.post_data) if request.post_data else None)
    with ServerProcess(settings(), role="all") as server:
        console = Console(page, server.url)
        await console.open("#start")
        start = console.button("Start")
        await start.click()
        await console.says("#agent-fault", "Name the agent to run.")
        await page.get_by_label("Agent").fill("nobody")
        await page.get_by_label("Input").fill('{"a": 1,}')
        await start.click()
        await console.says("#input-fault", "This is not JSON")
        assert bodies == []
        await page.get_by_label("Input").fill('{"a": 12345678901234567890}')
        await page.get_by_label("Run id").fill("not an id")
        await start.click()
        await console.says(".told", "Not started. Unprocessable")
        await console.says(".told li", "/runId")
        await console.says("#runId-fault", "/runId")
        await page.get_by_label("Run id").fill("")
        await start.click()
        await console.says(".told", "Not Found: there is no agent 'nobody'")
        await page.get_by_label("Agent").fill("echo")
        await start.click()
        await console.says(".title .state", "finished")
        await console.says(".output pre", '"a": 12345678901234567890')
        assert '"input":{"a": 12345678901234567890}' in bodies[-1]

        await page.get_by_role("link", name="Start a run").click()
        await page.get_by_label("Agent").fill("wait")
        await page.get_by_label("Run id").fill("w")
        await start.click()
        await console.says(".nodes", "Wait")
        assert page.url.endswith("#run=w")
        await console.button("Cancel the run").click()
        await console.button("Let it go on").click()
        await console.says(".title .state", "started")
        await console.button("Cancel the run").click()
        await page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
        # Its agent may have let go before the answer was made.
        said = re.compile("Cancelling is accepted|The run is cancelled")
        await expect(console.find(".title + .told")).to_contain_text(said)
        await console.says(".title .state", "cancelled")
        await console.says(".line", "complete")

        await page.evaluate("location.hash = '#run=w'")
        # As if the row were of a moment ago: somebody else was quicker.
        await page.evaluate("document.querySelector('.cancel').hidden = false")
        await console.button("Cancel the run").click()
        await page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
        await console.says(".title + .told", "Not cancelled. Conflict: ")
