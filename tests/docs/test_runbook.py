"""The runbook's commands, on healthy systems and on provoked faults: what they show is what it says they mean."""

from __future__ import annotations

import asyncio
import json
import re
import signal

import httpx2
import pytest

import tailrace
from tailrace.errors import ApiError
from tailrace.upkeep.finding import Code
from tests.docs.conftest import Desk, Server, needs_curl, needs_psql
from tests.docs.page import ROOT, Page
from tests.patience import PATIENCE_SECONDS
from tests.write_support import until

RUNBOOK = Page("docs/runbook.md")
RULES = (ROOT / "deploy" / "prometheus" / "tailrace.rules.yml").read_text("utf-8")
(BY_HAND,) = [block.text for block in RUNBOOK.of("sql")]
TIMED_OUT = 28
AGENTS = """
import asyncio

import tailrace

app = tailrace.App()


@app.agent
async def wait(run):
    async with run.node("Wait"):
        await asyncio.sleep(600)


@app.agent
async def echo(run):
    async with run.node("Echo"):
        return run.input


@app.agent
async def careless(run):
    async def later():
        while True:
            try:
                await run.trace("later")
            except tailrace.RunTerminated as refused:
                open("refused", "w").write(str(refused))
                return

    asyncio.get_running_loop().careless = asyncio.create_task(later())
"""
# Two screens, or a printed page in small type.
LINES_MAX, CHARACTERS_MAX = 110, 9000


async def start(desk: Desk, server: Server, agent: str, *, until_type: str | None) -> str:
    """Start a run, let ``$RUN`` name it, and return its id once an event of this type has come."""
    async with tailrace.Client(server.address) as client:
        run = await client.start(agent)
        if until_type is not None:
            async for event in client.stream(run.run_id):
                if event.type == until_type:
                    break
    desk.env |= {"RUN": run.run_id, "PUBLIC_URL": server.address}
    return run.run_id


async def until_one(desk: Desk, sql: str, run_id: str) -> None:
    """Wait until a statement about a run says true."""

    async def found() -> bool | None:
        return True if await desk.value(sql, run_id) else None

    await until(found)


async def said_in_time(desk: Desk, curl: str, wanted: str, *, codes: tuple[int, ...] = (0, TIMED_OUT)) -> str:
    """Return what the stream says before curl ends or gives up, asking again until it says that.

    It gives up after two seconds, for which a machine may stand still.
    """

    async def said() -> str | None:
        out = await desk.shell(curl, codes=codes)
        return out if re.search(wanted, out) else None

    return await until(said)


async def findings(desk: Desk, *args: str) -> dict[str, dict[str, str]]:
    """Return what the doctor finds, by code."""
    out = await desk.shell(f"tailrace doctor --json {' '.join(args)}", codes=(0, 1))
    return {finding["code"]: finding for finding in json.loads(out)["findings"]}


def test_it_is_one_page() -> None:
    """What does not fit is not read at three in the morning."""
    assert len(RUNBOOK.text.splitlines()) <= LINES_MAX
    assert len(RUNBOOK.text) <= CHARACTERS_MAX


def test_every_code_and_every_alert_has_its_place() -> None:
    """A row for each code of the doctor, and a section for each alert, which the alert links to."""
    codes = [code for row in RUNBOOK.table("What the doctor finds") for code in re.findall(r"`([a-z-]+)`", row[0])]
    assert sorted(codes) == sorted(Code)
    alerts = re.findall(r"- alert: (\w+)", RULES)
    assert re.findall(r"^### (\w+)$", RUNBOOK.text, re.MULTILINE) == alerts
    links = re.findall(r"runbook_url: docs/runbook\.md#(\S+)", RULES)
    assert links == [alert.lower() for alert in alerts]
    assert set(links) <= RUNBOOK.anchors


def test_what_it_says_of_bounds_is_what_is_set() -> None:
    """The defaults, the doctor's bounds and nginx's lines are those of the code and of the file that we ship."""
    from tailrace.settings import Settings  # noqa: PLC0415
    from tailrace.upkeep import runs  # noqa: PLC0415

    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert "`TAILRACE_OUTBOX_POLL_MS` (200)" in RUNBOOK.text
    assert "`TAILRACE_HEARTBEAT_SECONDS` is 15" in RUNBOOK.text
    assert "over 5,000 ms" in RUNBOOK.text
    assert (defaults["outbox_poll_ms"], defaults["heartbeat_seconds"], defaults["tx_timeout_ms"]) == (200, 15, 5000)
    assert "< 100 ms normal; 100 to 500 warning; > 500 or rising critical" in RUNBOOK.text
    assert (runs.LAG_WARNING_SECONDS, runs.LAG_CRITICAL_SECONDS) == (0.1, 0.5)
    shipped = (ROOT / "deploy" / "nginx" / "tailrace.conf").read_text("utf-8")
    (lines,) = [block.text.splitlines() for block in RUNBOOK.blocks if block.language == "nginx"]
    assert all(line in shipped for line in lines)


@needs_psql
@needs_curl
async def test_every_command_runs_on_a_healthy_system_and_finds_nothing(desk: Desk) -> None:
    """Blocks, commands in sentences, statements; last the one that ends the run, as it says."""
    desk.save("agents.py", AGENTS)
    server = await desk.serve("tailrace serve --app agents.py", TAILRACE_LOG_EVENTS="1")
    run_id = await start(desk, server, "wait", until_type="NodeStarted")
    # What is handed over first is marked after it.
    await until_one(desk, "select next_seq = 3 from tailrace.run_outbox where run_id = $1", run_id)
    whole, tail = RUNBOOK.of("sh")
    first, logs = await desk.until_well(whole.text, times=2), await desk.shell(tail.text)
    assert "everything is published; the run may still be executing" in first
    assert "0 events wait" in first
    assert {json.loads(line)["event"] for line in logs.splitlines()} >= {"worker.job.start", "metric.events_published"}

    cancel = 'tailrace runs cancel "$RUN"'
    assert cancel in RUNBOOK.commands
    for command in RUNBOOK.commands:
        if command == cancel:
            continue
        if command.startswith("curl"):
            await said_in_time(desk, command, rf'"runId":"{run_id}","seq":2')
            continue
        if command.startswith("tailrace doctor"):
            await desk.until_well(command)
        else:
            await desk.shell(command)
    cursors, next_event, gap, queued, locks = await desk.sql(BY_HAND, run=run_id)
    assert (cursors[0]["state"], cursors[0]["last_seq"], cursors[0]["next_seq"]) == ("started", "2", "3")
    assert cursors[0]["backlog"] == "0"
    assert next_event == []
    assert gap == [{"expected": "", "last_good": ""}]
    assert queued[0]["lease_owner"]
    assert locks == []

    await desk.shell(cancel)
    async with tailrace.Client(server.address) as client:
        assert [event.type async for event in client.stream(run_id)][-1] == "RunCancelled"


@needs_psql
@needs_curl
async def test_a_stuck_outbox_looks_as_it_says_and_a_restart_is_the_cure(desk: Desk) -> None:
    """Persisted and not published: a backlog that does not fall, a row whose published_at is null, `outbox-behind`."""
    desk.save("agents.py", AGENTS)
    server = await desk.serve("tailrace serve --role api --port 8400")
    await desk.serve("tailrace serve --role worker --app agents.py")
    outbox = await desk.serve("tailrace serve --role outbox")
    outbox.process.send_signal(signal.SIGSTOP)
    run_id = await start(desk, server, "wait", until_type=None)
    await until_one(desk, "select last_seq = 2 from tailrace.runs where id = $1", run_id)
    for _ in range(2):
        status = json.loads(await desk.shell("tailrace outbox status --json"))
        assert status["runs"] == [{"runId": run_id, "nextSeq": 1, "lastSeq": 2, "backlog": 2}]
    cursors, next_event, gap, _, _ = await desk.sql(BY_HAND, run=run_id)
    assert cursors[0]["backlog"] == "2"
    assert next_event == [{"seq": "1", "type": "RunStarted", "published_at": ""}]
    assert gap == [{"expected": "", "last_good": ""}]
    assert (await findings(desk, '"$RUN"')).keys() == {Code.OUTBOX_BEHIND}
    async with httpx2.AsyncClient(base_url=server.address, timeout=PATIENCE_SECONDS) as http:
        assert (await http.get(f"/api/agents/runs/{run_id}/events")).json()["events"] == []
    (curl,) = [command for command in RUNBOOK.commands if command.startswith("curl")]
    assert re.fullmatch(r"retry: \d+\n\n", await said_in_time(desk, curl, "retry: ", codes=(TIMED_OUT,)))
    assert '"title":"Not Found"' in await desk.shell(curl.replace("$RUN", "nobody"))

    await outbox.stop(9)
    await desk.serve("tailrace serve --role outbox")

    await until_one(desk, "select next_seq = 3 from tailrace.run_outbox where run_id = $1", run_id)
    await desk.until_well('tailrace doctor "$RUN"')


@needs_psql
async def test_a_gap_is_told_by_the_statement_and_by_the_doctor_alike(desk: Desk) -> None:
    """No row at next_seq; the expected and the last good seq, for engineering."""
    desk.save("agents.py", AGENTS)
    server = await desk.serve("tailrace serve --app agents.py")
    run_id = await start(desk, server, "wait", until_type="NodeStarted")
    # What is handed over first is marked after it.
    await until_one(desk, "select next_seq = 3 from tailrace.run_outbox where run_id = $1", run_id)
    await server.stop(9)
    await desk.execute(
        "with more as (insert into tailrace.run_events (run_id, seq, ts, type, source, fn)"
        " select $1, seq, 1, 'DebugTrace', 'worker', 't' from generate_series(4, 6) as seq)"
        " update tailrace.runs set last_seq = 6 where id = $1",
        run_id,
    )
    cursors, next_event, gap, _, _ = await desk.sql(BY_HAND, run=run_id)
    assert cursors[0]["backlog"] == "4"
    assert next_event == []
    assert gap == [{"expected": "3", "last_good": "2"}]
    found = (await findings(desk, '"$RUN"'))[Code.SEQ_GAP]
    assert "the event 3 is not there: the last good seq is 2" in found["detail"]
    assert "engineering at once" in found["action"]


async def test_a_missing_index_is_made_by_the_statement_that_the_finding_prints(desk: Desk) -> None:
    """`index-missing` → run it → nothing is found."""
    await desk.serve("tailrace serve")
    await desk.execute("drop index tailrace.run_outbox_open")
    action = (await findings(desk))[Code.INDEX_MISSING]["action"]
    await desk.execute(action.removeprefix("in psql: "))
    await desk.until_well("tailrace doctor")


@needs_psql
async def test_a_run_that_never_started_and_a_lock_are_seen_by_hand(desk: Desk) -> None:
    """Queued, nobody's, an agent last seen long ago; a session that holds the outbox, and who waits for it."""
    desk.save("agents.py", AGENTS)
    server = await desk.serve("tailrace serve --role api")
    await desk.execute("insert into tailrace.agents (name, seen_at) values ('echo', now() - interval '1 hour')")
    run_id = await start(desk, server, "echo", until_type=None)
    await desk.execute("update tailrace.runs set created_at = created_at - interval '1 minute'")
    *_, queued, _ = await desk.sql(BY_HAND, run=run_id)
    assert (queued[0]["state"], queued[0]["lease_owner"]) == ("queued", "")
    assert queued[0]["agent_seen_at"] < queued[0]["created_at"]
    assert Code.NOT_STARTED in await findings(desk, '"$RUN"')

    holding = asyncio.create_task(
        desk.execute(
            "set application_name = 'careless'; begin; select from tailrace.run_outbox for update; select pg_sleep(600)"
        )
    )
    try:

        async def held() -> list[dict[str, str]] | None:
            return (await desk.sql(BY_HAND, run=run_id))[-1] or None

        (lock,) = await until(held)
        assert lock["application_name"] == "careless"
        assert lock["query"].startswith("set application_name")
    finally:
        await desk.value("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'careless'")
        await asyncio.wait({holding})
        assert holding.exception() is not None
    await desk.serve("tailrace serve --role worker --app agents.py")
    await desk.serve("tailrace serve --role outbox")
    async with tailrace.Client(server.address) as client:
        assert [event.type async for event in client.stream(run_id)][-1] == "RunFinished"


async def test_the_failure_patterns_show_what_they_say(desk: Desk) -> None:
    """After the terminal event everything is refused; without its position a client gets a seq twice, with it once."""
    patterns = {row[0]: row for row in RUNBOOK.table("Failure patterns")}
    assert len(patterns) == 5
    desk.save("agents.py", AGENTS)
    server = await desk.serve("tailrace serve --app agents.py")
    run_id = await start(desk, server, "careless", until_type="RunFinished")

    async def refused() -> bool | None:
        return (desk.folder / "refused").exists() or None

    await until(refused)
    last = await desk.value("select last_seq from tailrace.runs where id = $1", run_id)
    with pytest.raises(Exception, match="nothing may follow") as raised:
        await desk.execute(
            "insert into tailrace.run_events (run_id, seq, ts, type, source, fn)"
            " values ($1, $2 + 1, 1, 'DebugTrace', 'worker', 'late')",
            run_id,
            last,
        )
    constraint = getattr(raised.value, "constraint_name", None)
    assert any(f"`RunTerminated`, or `{constraint}`" in seen for seen in patterns)

    async def seqs(**headers: str) -> list[int]:
        async with httpx2.AsyncClient(base_url=server.address, timeout=PATIENCE_SECONDS) as http:
            text = (await http.get(f"/api/agents/runs/{run_id}/stream", headers=headers)).text
        return [json.loads(line[5:])["seq"] for line in text.split("\n") if line.startswith("data:")]

    everything = list(range(1, int(str(last)) + 1))
    assert await seqs() == everything
    assert await seqs() == everything
    assert await seqs(**{"Last-Event-ID": "2"}) == everything[2:]
    async with tailrace.Client(server.address) as client:
        with pytest.raises(ApiError, match="409"):
            await client.cancel(run_id)
