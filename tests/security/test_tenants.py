"""Tenants: two that work at the same time see nothing of each other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

import tailrace
from tailrace.errors import ApiError
from tailrace.runtime import ROLES
from tailrace.settings import Settings
from tests.patience import PATIENCE_SECONDS
from tests.read_support import RUNS, Reading, serving
from tests.security.conftest import Keys

EACH, LOAD_EACH = 20, 100
EVERY_CALL = [("GET", ""), ("GET", "/events"), ("GET", "/stream"), ("POST", "/cancel"), ("POST", "/stream-token")]


@pytest.fixture
async def whole(settings: Callable[..., Settings], keys: Keys, acme: str, globex: str) -> AsyncIterator[Reading]:
    """All roles, with an agent that says whom it works for."""
    app = tailrace.App(settings(api_keys_file=keys.path))

    @app.agent
    async def tell(run: tailrace.Run) -> str:
        for number in range(3):
            await run.emit("Said", {"by": run.input["by"], "number": number})
        return str(run.input["by"])

    def end_streams() -> None:
        app.services().hub.close()

    async with serving(app.asgi(roles=ROLES), on_close=end_streams) as port:
        yield Reading(app, port)


async def test_two_tenants_under_load_see_nothing_of_each_other(whole: Reading, acme: str, globex: str) -> None:
    """Each starts, streams and lists its runs, with the same idempotency keys, and tries all calls on the other's."""

    async def work(tenant: str, key: str, other: str) -> set[str]:
        async with tailrace.Client(whole.url, api_key=key) as client:

            async def one(number: int) -> str:
                run = await client.start("tell", {"by": tenant}, idempotency_key=f"key-{number}")
                again = await client.start("tell", {"by": tenant}, idempotency_key=f"key-{number}")
                assert again.run_id == run.run_id
                said = [event async for event in client.stream(run.run_id)]
                assert [event.seq for event in said] == [1, 2, 3, 4, 5]
                assert {event.data["by"] for event in said if event.data} == {tenant}
                return run.run_id

            own = set(await asyncio.gather(*(one(number) for number in range(EACH))))
            found.setdefault(tenant, own)
            both.set() if len(found) == 2 else None
            await both.wait()

            async def intrude(run_id: str) -> None:
                with pytest.raises(ApiError, match="404"):
                    await client.get(run_id)
                with pytest.raises(ApiError, match="404"):
                    await client.events(run_id)
                with pytest.raises(ApiError, match="404"):
                    await client.cancel(run_id)
                with pytest.raises(ApiError, match="404"):
                    await client.stream_token(run_id)
                with pytest.raises(ApiError, match="404"):
                    _ = [event async for event in client.stream(run_id)]

            await asyncio.gather(*(intrude(run_id) for run_id in found[other]))
            listed: list[str] = []
            cursor = None
            while True:
                page = await client.list(limit=7, agent="tell", cursor=cursor)
                listed += [run.run_id for run in page.runs]
                if (cursor := page.next_cursor) is None:
                    break
            assert len(listed) == len(set(listed))
            assert set(listed) == own
            return own

    found: dict[str, set[str]] = {}
    both = asyncio.Event()
    ours, theirs = await asyncio.gather(work("acme", acme, "globex"), work("globex", globex, "acme"))
    assert len(ours) == len(theirs) == EACH
    assert not ours & theirs
    rows = await whole.database.rows("run_list", None, None, None, None, 100, None)
    assert len(rows) == 2 * EACH


async def test_every_look_at_another_tenant_s_runs_under_full_load_finds_what_does_not_exist(
    whole: Reading, keys: Keys, acme: str, globex: str
) -> None:
    """While both start and follow runs as fast as they can, each asks for the other's ids, which it knows, by every
    call again and again: byte for byte the answer for an id that nobody has, before, while and after the run goes on.
    """
    counts: Counter[str] = Counter()

    async def start_and_follow(client: tailrace.Client, tenant: str, number: int) -> None:
        run_id = f"{tenant}-{number}"
        await client.start("tell", {"by": tenant}, run_id=run_id, idempotency_key=f"key-{number}")
        said = [event async for event in client.stream(run_id)]
        assert {event.data["by"] for event in said if event.data} == {tenant}
        counts["followed"] += 1

    async def load(tenant: str, key: str) -> None:
        async with tailrace.Client(whole.url, api_key=key) as client:
            for begin in range(0, LOAD_EACH, 10):
                numbers = range(begin, begin + 10)
                await asyncio.gather(*(start_and_follow(client, tenant, number) for number in numbers))

    async def intrude(key: str, other: str, working: asyncio.Task[None]) -> None:
        async with keys.client(whole, key) as http:

            async def look(method: str, run_id: str, rest: str) -> tuple[int, bytes]:
                answer = await http.request(method, f"{RUNS}/{run_id}{rest}")
                counts["asked"] += 1
                return answer.status_code, answer.content.replace(run_id.encode(), b"ID")

            while not working.done():
                for method, rest in EVERY_CALL:
                    number = counts["asked"] % LOAD_EACH
                    found = await look(method, f"{other}-{number}", rest)
                    assert found == await look(method, f"nobody-{number}", rest)
                    assert found[0] == 404
                listed = (await http.get(RUNS, params={"limit": "500"})).json()["runs"]
                assert not [run["runId"] for run in listed if run["runId"].startswith(other)]

    async with asyncio.timeout(4 * PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        for tenant, key, others_key in (("acme", acme, globex), ("globex", globex, acme)):
            working = group.create_task(load(tenant, key))
            group.create_task(intrude(others_key, tenant, working))
    assert counts["followed"] == 2 * LOAD_EACH
    assert counts["asked"] > 2 * len(EVERY_CALL)
    async with keys.client(whole, acme) as http:
        states = {run["state"] for run in (await http.get(RUNS, params={"limit": "500"})).json()["runs"]}
    assert states == {"finished"}, "nobody's cancel has reached another's run"


async def test_a_cursor_of_another_tenant_s_list_shows_nothing_of_it(
    whole: Reading, keys: Keys, acme: str, globex: str
) -> None:
    """It is only a place in time."""
    async with keys.client(whole, acme) as ours, keys.client(whole, globex) as theirs:
        for number in range(3):
            await theirs.post(RUNS, json={"agent": "tell", "input": {"by": "x"}, "runId": f"theirs-{number}"})
        await ours.post(RUNS, json={"agent": "tell", "input": {"by": "x"}, "runId": "ours"})
        cursor = (await theirs.get(RUNS, params={"limit": "1"})).json()["nextCursor"]
        assert (await ours.get(RUNS, params={"cursor": cursor})).json() == {"runs": [], "nextCursor": None}
