"""The guide, walked from its first block to its last, and every trouble that it names, met."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx2
import pytest

import tailrace
from tests.docs.conftest import Desk, needs_curl, needs_psql
from tests.docs.page import Page
from tests.patience import PATIENCE_SECONDS

GUIDE = Page("docs/guide.md")
ROLE_SQL = next(block.text for block in GUIDE.of("sql"))


@pytest.mark.timeout(900)  # some twenty programs, one after another
@needs_curl
async def test_the_guide_does_what_it_says_from_its_first_block_to_its_last(desk: Desk) -> None:
    """Agents, commands, client, application, keys, migrations, tests: as a reader would do them."""
    watched, followed, mounted, keys, tenant, migrations, tests = await desk.walk(GUIDE)
    assert '{"summary":"rivers 1; rivers 2; rivers 3"}' in watched
    for said in ("NodeStarted  Search", "NodeFinished Summarize", "RunCancelled"):
        assert said in watched, watched
    assert followed.count("RunFinished") == 2
    assert followed.count("'page': 'lakes 3'") == 2
    one, another = [line for line in followed.splitlines() if line.startswith("{'summary'")]
    assert one == another
    assert [json.loads(line[5:])["seq"] for line in mounted.splitlines() if line.startswith("data:")] == [*range(1, 15)]
    assert "acme" in keys
    assert (desk.folder / "web.key").read_text("utf-8").strip() not in (desk.folder / "keys.json").read_text("utf-8")
    listed = tenant.partition("last seq")[2].strip().splitlines()
    assert [line.split()[1] for line in listed[1:]] == ["research"], tenant
    assert migrations.count("current") == 3
    assert "2 passed" in tests
    assert "2 skipped" in tests


async def test_what_it_says_of_steps_is_so(desk: Desk) -> None:
    """A killed worker's run is called again from its top: the kept step is not, what stands outside of it is."""
    desk.save("agent.py", RESUMED)
    first = await desk.serve("tailrace serve --app agent.py")
    async with tailrace.Client(first.address) as client:
        run = await client.start("resumed")
        async for event in client.stream(run.run_id):
            if event.name == "Outside":
                break
    await first.stop(9)
    (desk.folder / "go-on").touch()
    # The dead worker's lease would last half a minute; its end is what the test need not wait for.
    await desk.execute("update tailrace.runs set lease_until = now() - interval '1 second'")
    second = await desk.serve("tailrace serve --app agent.py")
    async with tailrace.Client(second.address) as client:
        events = [event async for event in client.stream(run.run_id)]
    names = [event.name for event in events if event.type in ("NodeStarted", "Custom")]
    assert names == ["Kept", "Outside", "Outside"]
    assert events[-1].type == "RunFinished"


RESUMED = """
import asyncio
from pathlib import Path

import tailrace

app = tailrace.App()


@app.agent
async def resumed(run):
    await run.step("Kept", str)
    await run.emit("Outside")
    while not Path("go-on").exists():
        await asyncio.sleep(0.02)
"""


async def test_a_production_database_is_upgraded_by_the_command_and_by_nothing_else(bare_desk: Desk) -> None:
    """Behind: exit 1 and no server; upgraded: both; and running processes go on, and are ready."""
    desk = bare_desk
    desk.save("agent.py", GUIDE.file("agent.py"))
    assert "behind" in await desk.shell("tailrace db status", codes=(1,))
    refused = await desk.shell("tailrace serve", codes=(1,))
    assert "run `tailrace db upgrade`" in refused
    assert await desk.value("select to_regclass('tailrace.runs')") is None
    assert "applied" in await desk.shell("tailrace db upgrade")
    assert "nothing to do" in await desk.shell("tailrace db upgrade")
    assert "current" in await desk.shell("tailrace db status")

    server = await desk.serve("tailrace serve --app agent.py")
    async with (
        httpx2.AsyncClient(base_url=server.address, timeout=PATIENCE_SECONDS) as http,
        tailrace.Client(server.address) as client,
    ):
        assert (await http.get("/readyz")).status_code == 200
        await desk.execute("insert into tailrace.schema_migrations (version, name) values (9999, 'of a newer package')")
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["schema"]) == (200, "ahead")
        run = await client.start("research", {"topic": "rivers"})
        assert [event.type async for event in client.stream(run.run_id)][-1] == "RunFinished"
    assert "ahead" in await desk.shell("tailrace db status", codes=(1,))
    assert "upgrade the tailrace package" in await desk.shell("tailrace serve --port 0", codes=(1,))


@pytest.fixture
async def role(desk: Desk) -> AsyncIterator[str]:
    """Name of a role for the servers, unlike any other test's; gone afterwards."""
    name = f"tailrace_app_{secrets.token_hex(4)}"
    yield name
    await desk.execute(f"drop owned by {name}; drop role {name}")


@needs_psql
async def test_servers_need_no_more_than_the_grants_that_it_names(desk: Desk, role: str) -> None:
    """All roles work under it, the doctor finds nothing; tables it can change no more than read."""
    await desk.sql(ROLE_SQL.replace("tailrace_app", role), run="")
    await desk.execute(f"alter role {role} password 'secret'")
    parts = urlsplit(desk.url)
    place = parts.netloc.rpartition("@")[2]
    restricted = urlunsplit(parts._replace(netloc=f"{role}:secret@{place}"))
    connection = await asyncpg.connect(restricted)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("alter table tailrace.runs add column more text")
    await connection.close()
    desk.save("agent.py", GUIDE.file("agent.py"))
    desk.env["TAILRACE_DATABASE_URL"] = restricted
    server = await desk.serve("tailrace serve --app agent.py")
    async with tailrace.Client(server.address) as client:
        run = await client.start("research", {"topic": "rivers"})
        assert [event.type async for event in client.stream(run.run_id)][-1] == "RunFinished"
    doctor = GUIDE.commands[-1]
    assert doctor.startswith("tailrace doctor --url")
    await desk.until_well(doctor)


MISTAKEN = """
import tailrace

app = tailrace.App()


@app.agent
async def large(run):
    await run.emit("Large", {"text": "x" * 70_000})


@app.agent
async def odd(run):
    return {1, 2}


@app.agent
async def strange(run):
    await run.emit("Odd", {"number": float("nan")})
"""


async def failed(desk: Desk, *agents: str) -> str:
    """Return the messages with which runs of these agents fail."""
    desk.save("mistaken.py", MISTAKEN)
    server = await desk.serve("tailrace serve --app mistaken.py --port 8000")
    messages = []
    async with tailrace.Client(server.address) as client:
        for agent in agents:
            run = await client.start(agent)
            (*_, last) = [event async for event in client.stream(run.run_id)]
            assert last.data is not None
            messages.append(f"{last.fn}: {last.data}")
    await server.stop()
    return "\n".join(messages)


async def older(desk: Desk) -> str:
    await desk.execute("delete from tailrace.schema_migrations where version > 1")
    return await desk.shell("tailrace serve", codes=(1,))


async def taken(desk: Desk) -> str:
    await desk.serve("tailrace serve --port 8400")
    return await desk.shell("tailrace serve --port 8400", codes=(1,))


async def unmounted(desk: Desk) -> str:
    desk.save("agent.py", GUIDE.file("agent.py"))
    desk.save("main.py", GUIDE.file("main.py").replace("async with app.lifespan():", "if True:"))
    server = await desk.serve("uvicorn main:api --port 8000")
    async with httpx2.AsyncClient(base_url=server.address, timeout=PATIENCE_SECONDS) as http:
        return (await http.get("/tailrace/api/agents/runs")).text


async def without_fixture(desk: Desk) -> str:
    desk.save(
        "test_one.py",
        "import asyncio\nfrom tailrace.testing import await_run\ndef test():\n    asyncio.run(await_run('r'))\n",
    )
    del desk.env["TAILRACE_DATABASE_URL"]
    return await desk.shell("pytest -q -p no:cacheprovider test_one.py --tb=line", codes=(1,))


def said_by(command: str, code: int) -> Callable[[Desk], Awaitable[str]]:
    """Return what runs a command that fails."""

    async def run(desk: Desk) -> str:
        return await desk.shell(command, codes=(code,))

    return run


TROUBLES: Mapping[str, Callable[[Desk], Awaitable[str]]] = {
    "this Tailrace needs": older,
    "is not a setting of Tailrace": said_by("TAILRACE_LEASE_SECOND=1 tailrace db status", 2),
    "there is no file and no module": said_by("tailrace serve --app nowhere", 2),
    "could not listen on": taken,
    "without credentials Tailrace listens on loopback alone": said_by("tailrace serve --host 0.0.0.0", 2),
    "Tailrace is not started": unmounted,
    "there is no agent": said_by("tailrace runs start nobody", 1),
    "TAILRACE_BUS_URL=memory:// serves one process": said_by("TAILRACE_BUS_URL=memory:// tailrace serve --role api", 2),
    "TAILRACE_MAX_EVENT_BYTES allows": lambda desk: failed(desk, "large"),
    "is not JSON`, `is not acceptable": lambda desk: failed(desk, "odd", "strange"),
    "no test database is named": without_fixture,
}
# What is no text of a message, and where it is provoked.
ELSEWHERE = {
    "`LeaseLost`, `run.resumed` in a healthy run": "tests/worker/test_takeover.py",
    "`RunTerminated`": "tests/docs/test_runbook.py",
    "a stream that comes all at once": "tests/upkeep/test_walk_proxies.py",
}


def test_every_command_in_its_sentences_is_run_here() -> None:
    """In the tests of production's database and of its role."""
    assert GUIDE.commands == [
        "tailrace db upgrade", "tailrace serve", "tailrace doctor --url http://127.0.0.1:8400"
    ]  # fmt: skip


def test_every_trouble_that_it_names_is_provoked() -> None:
    """The table and what follows here are of one length."""
    rows = [row[0] for row in GUIDE.table("Troubleshooting")]
    assert rows == [*(f"`{text}`" for text in TROUBLES), *ELSEWHERE]


@pytest.mark.parametrize("text", TROUBLES)
async def test_a_trouble_says_what_it_says_there(desk: Desk, text: str) -> None:
    """The words that a reader looks for are in the message, in the one that really comes."""
    said = await TROUBLES[text](desk)
    for words in text.split("`, `"):
        assert words in said, said
