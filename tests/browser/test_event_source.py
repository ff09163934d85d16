"""A real browser's ``EventSource``, which reconnects by itself and gives up for ever on any answer it does not like."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2
import pytest
from playwright.async_api import Page

from tailrace.bus.local_first import LocalFirst
from tailrace.settings import Settings
from tailrace.store.database import Database
from tests.browser_support import HostProcess
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS
from tests.read_support import HandWrittenRun, publish_all, until

FOLLOW = """
(url) => {
    window.seen = [];
    window.source = new EventSource(url);
    window.source.onmessage = (message) => {
        const event = JSON.parse(message.data);
        if (message.lastEventId !== String(event.seq)) throw new Error(`id ${message.lastEventId}, seq ${event.seq}`);
        window.seen.push(event.seq);
    };
}
"""
CLOSED = "() => window.source.readyState === EventSource.CLOSED"


async def follow(page: Page, host: HostProcess, query: str = "") -> None:
    await page.goto(f"{host.url}/page")
    await page.evaluate(FOLLOW, f"/tailrace/api/agents/runs/r/stream{query}")


async def seen_upto(page: Page, seq: int) -> list[int]:
    await page.wait_for_function("(seq) => window.seen.includes(seq)", arg=seq, timeout=PATIENCE_MS)
    seen: list[int] = await page.evaluate("window.seen")
    return seen


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_browser_follows_a_run_through_a_restart_of_the_server(
    page: Page, host: HostProcess, database: Database, bus: LocalFirst, how: str
) -> None:
    """The server ends or dies in the midst of a run and comes back on the same port: the page has each event exactly
    once and in order, and after the terminal event the `EventSource` is told to stop by 204 and is closed.
    """
    statuses: list[int] = []
    _note_statuses(page, statuses)
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(20)
    await publish_all(database, bus)
    # The URL keeps its position for ever; what the browser has had meanwhile goes in Last-Event-ID and wins.
    await follow(page, host, "?fromSeq=1")
    assert await seen_upto(page, 21) == list(range(2, 22))
    await asyncio.to_thread(getattr(host, how))
    await run.append_many(20)
    await publish_all(database, bus)
    await asyncio.to_thread(host.start)
    assert await seen_upto(page, 41) == list(range(2, 42))
    await run.append_many(20)
    await publish_all(database, bus)
    assert await seen_upto(page, 61) == list(range(2, 62))
    await run.finish()
    await publish_all(database, bus)
    await page.wait_for_function(CLOSED, timeout=PATIENCE_MS)
    assert await page.evaluate("window.seen") == list(range(2, 63))
    await until(lambda: statuses[-1:] == [204], "the last answer was told of")
    assert set(statuses[:-1]) == {200}


async def test_a_browser_that_comes_to_a_run_that_has_ended_gets_all_of_it_and_stops(
    page: Page, host: HostProcess, database: Database, bus: LocalFirst
) -> None:
    """Line separators in the data and names included; no event type is named, so `onmessage` sees every one."""
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(600, {"text": "a\u2028b\r\nc\n\nid: 7\ndata: x"})
    await run.finish()
    await publish_all(database, bus)
    await follow(page, host)
    await page.wait_for_function(CLOSED, timeout=PATIENCE_MS)
    assert await page.evaluate("window.seen") == list(range(1, 603))


async def test_an_answer_of_the_api_opened_in_a_tab_may_follow_a_stream(
    page: Page, host: HostProcess, database: Database, bus: LocalFirst
) -> None:
    """The policy of the answers forbids everything but that: it is how one looks at a stream from the console."""
    run = await HandWrittenRun.start(database, "r")
    await run.finish()
    await publish_all(database, bus)
    await page.goto(f"{host.url}/tailrace/healthz")
    await page.evaluate(FOLLOW, "/tailrace/api/agents/runs/r/stream")
    await page.wait_for_function(CLOSED, timeout=PATIENCE_MS)
    assert await page.evaluate("window.seen") == [1, 2]


async def test_a_browser_asked_to_come_again_comes_again(
    page: Page, settings: Callable[..., Settings], database: Database, bus: LocalFirst
) -> None:
    """One stream is allowed and taken: the second page is answered 200 with `retry:`, stays, and is let in later."""
    run = await HandWrittenRun.start(database, "r")
    await publish_all(database, bus)
    with HostProcess(settings(), TAILRACE_MAX_STREAMS="1") as host:
        answers: list[int] = []
        async with httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as http:
            path = f"{host.url}/tailrace/api/agents/runs/r/stream"
            async with http.stream("GET", path) as first:
                pieces = first.aiter_bytes()
                await anext(pieces)
                page.on(
                    "response", lambda response: answers.append(response.status) if "/stream" in response.url else None
                )
                await follow(page, host)
                await until(lambda: bool(answers), "the page was answered")
                assert set(answers) == {200}
                assert await page.evaluate("window.source.readyState !== EventSource.CLOSED")
                assert await page.evaluate("window.seen") == []
        await run.finish()
        await publish_all(database, bus)
        await page.wait_for_function(CLOSED, timeout=PATIENCE_MS)
        assert await page.evaluate("window.seen") == [1, 2]


def _note_statuses(page: Page, statuses: list[int]) -> None:
    page.on("response", lambda answer: statuses.append(answer.status) if "/stream" in answer.url else None)
