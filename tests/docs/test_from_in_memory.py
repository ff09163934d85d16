"""Both programs of the page: what the first one loses, and that the second one loses none of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.docs.conftest import Desk, Server
from tests.docs.page import Page
from tests.patience import PATIENCE_SECONDS

PAGE = Page("docs/from-in-memory.md")
PAGES = 5
# Of a run that shall go on for longer than the test needs to get to it.
MANY = 500
RUNS = "/tailrace/api/agents/runs"


@pytest.fixture
async def before(desk: Desk) -> Server:
    """The queue per request, served as its owner does."""
    desk.save("before.py", PAGE.file("before.py"))
    return await desk.serve("uvicorn before:api --port 8000")


@pytest.fixture
async def after(desk: Desk) -> Server:
    """The same with Tailrace."""
    desk.save("after.py", PAGE.file("after.py"))
    return await desk.serve("uvicorn after:api --port 8000")


async def events(server: Server, path: str, *, last_id: int | None = None) -> AsyncIterator[dict[str, Any]]:
    """Yield what a stream brings, with the id of its frame where it has one."""
    headers = {"Last-Event-ID": str(last_id)} if last_id is not None else {}
    frame: dict[str, Any] = {}
    async with (
        httpx2.AsyncClient(base_url=server.address, timeout=PATIENCE_SECONDS) as http,
        http.stream("GET", path, headers=headers) as answer,
    ):
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("id:"):
                frame["id"] = int(line[3:])
            elif line.startswith("data:"):
                yield frame | json.loads(line[5:])
                frame = {}


async def start(server: Server, pages: int = PAGES) -> str:
    """Start the agent as the page does and return the run's id."""
    async with httpx2.AsyncClient(base_url=server.address, timeout=PATIENCE_SECONDS) as http:
        answer = await http.post(RUNS, json={"agent": "digest", "input": {"pages": pages}})
    assert answer.status_code == 201
    run_id: str = answer.json()["runId"]
    return run_id


async def test_the_queue_works_as_long_as_nothing_happens(before: Server) -> None:
    """It is an honest program: everything comes, in order, and ends."""
    found = [event async for event in events(before, f"/digest?pages={PAGES}")]
    assert [event.get("done") for event in found] == [1, 2, 3, 4, 5, None]
    assert found[-1] == {"type": "finished", "answer": "5 pages"}


async def test_a_cut_costs_the_queue_everything(before: Server) -> None:
    """No ids, so nothing to resume from: a client that comes back has the work done again from its beginning."""
    async for event in events(before, f"/digest?pages={PAGES}"):
        assert "id" not in event
        if event["done"] == 3:
            break
    again = [event async for event in events(before, f"/digest?pages={PAGES}", last_id=3)]
    assert again[0]["done"] == 1


async def test_a_cut_costs_the_run_nothing(after: Server) -> None:
    """The run goes on without anybody; who comes back gets what follows, once; who comes late gets all of it."""
    run_id = await start(after)
    seen = []
    async for event in events(after, f"{RUNS}/{run_id}/stream"):
        assert event["id"] == event["seq"]
        seen.append(event)
        if event.get("data") == {"done": 3, "of": PAGES}:
            break
    seen += [event async for event in events(after, f"{RUNS}/{run_id}/stream", last_id=seen[-1]["id"])]
    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    assert [event["data"]["done"] for event in seen if event["type"] == "Custom"] == [1, 2, 3, 4, 5]
    assert seen[-1]["type"] == "RunFinished"
    assert [event async for event in events(after, f"{RUNS}/{run_id}/stream")] == seen
    async with httpx2.AsyncClient(base_url=after.address, timeout=PATIENCE_SECONDS) as http:
        assert (await http.get(f"{RUNS}/{run_id}")).json()["output"] == {"answer": "5 pages"}
        ended = {"Last-Event-ID": str(seen[-1]["seq"])}
        assert (await http.get(f"{RUNS}/{run_id}/stream", headers=ended)).status_code == 204


async def test_a_run_outlives_its_process_and_is_streamed_by_another(desk: Desk) -> None:
    """Killed in the middle: another process executes the rest and serves the rest, without a gap."""
    # Read at the pace of the page, five of them could all be read before this process is killed.
    slow = PAGE.file("after.py").replace("sleep(0.2)", "sleep(0.2 if page < 3 else 60)")
    assert slow != PAGE.file("after.py")
    desk.save("slow.py", slow)
    first = await desk.serve("uvicorn slow:api --port 8000")
    run_id = await start(first)
    seen = []
    async for event in events(first, f"{RUNS}/{run_id}/stream"):
        seen.append(event)
        if event.get("data") == {"done": 2, "of": PAGES}:
            break
    await first.stop(9)
    # The dead worker's lease would last half a minute; its end is what the test need not wait for.
    await desk.execute("update tailrace.runs set lease_until = now() - interval '1 second' where id = $1", run_id)
    desk.save("after.py", PAGE.file("after.py"))
    other = await desk.serve("uvicorn after:api --port 8400")
    seen += [event async for event in events(other, f"{RUNS}/{run_id}/stream", last_id=seen[-1]["id"])]
    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    assert "run.resumed" in [event.get("fn") for event in seen]
    assert sum(event["type"] == "NodeFinished" for event in seen) == PAGES
    assert seen[-1]["type"] == "RunFinished"


async def test_a_closed_stream_ends_no_run_and_cancelling_does(after: Server) -> None:
    """A closed stream is no wish to stop; the call is, and the stream ends with RunCancelled."""
    run_id = await start(after, MANY)
    async for _ in events(after, f"{RUNS}/{run_id}/stream"):
        break
    async with httpx2.AsyncClient(base_url=after.address, timeout=PATIENCE_SECONDS) as http:
        assert (await http.get(f"{RUNS}/{run_id}")).json()["state"] in ("queued", "started")
        assert (await http.post(f"{RUNS}/{run_id}/cancel")).status_code == 202
    assert [event["type"] async for event in events(after, f"{RUNS}/{run_id}/stream")][-1] == "RunCancelled"
