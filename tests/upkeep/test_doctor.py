"""`tailrace doctor`: every code by the fault itself, and nothing on a healthy system."""

from __future__ import annotations

import asyncio

import pytest

import tailrace
from tailrace.store.database import Database
from tailrace.store.leases import Leases
from tailrace.store.runs import Runs
from tailrace.upkeep.finding import Code
from tests.outage_support import Served, served
from tests.upkeep.conftest import AGENTS, Doctor, MakeSettings, finding, well
from tests.write_support import claim, execute, queued, until, value

RunId = str


async def start(server: Served, agent: str, *, until_type: str) -> RunId:
    """Start a run and return its id once an event of this type is published."""
    async with tailrace.Client(server.address) as client:
        run = await client.start(agent)
        async for event in client.stream(run.run_id):
            if event.type == until_type:
                break
        return run.run_id


async def published(database: Database, run_id: str, *, ended: bool = False) -> bool | None:
    """Return True once the outbox has caught up with a run, which has ended by then if it must."""
    found = await value(
        database,
        "select next_seq > last_seq and (finished_at is not null or not $2) from tailrace.runs"
        " join tailrace.run_outbox on run_id = id where id = $1",
        run_id,
        ended,
    )
    return True if found else None


async def test_a_healthy_system_has_no_findings(server: Served, database: Database, doctor: Doctor) -> None:
    """With runs that ended, one in progress, and through the server's own URL too; the text has every hop's time."""
    ended = await start(server, "echo", until_type="RunFinished")
    waiting = await start(server, "wait", until_type="NodeStarted")
    # What has come is marked a moment later.
    await until(lambda: published(database, ended, ended=True))
    await until(lambda: published(database, waiting))
    for args in ((), ("--url", server.address), (waiting,)):
        told = await well(doctor, *args)
        assert (told.code, told.findings) == (0, [])
    text = await well(doctor, text=True)
    assert text.code == 0
    assert "nothing found" in text.out
    assert "not made" not in text.out
    for hop in ("append", "outbox", "bus", "stream"):
        assert hop in text.out


async def test_a_run_is_explained_by_its_rows(server: Served, database: Database, doctor: Doctor) -> None:
    """State, both cursors, what stands at next_seq, lease, agent; a run that is not there is an error."""
    run_id = await start(server, "wait", until_type="NodeStarted")
    await until(lambda: published(database, run_id))
    told = await well(doctor, run_id, text=True)
    assert told.code == 0
    for said in (run_id, "last_seq", "next_seq", "lease", "everything is published", "a worker served it"):
        assert said in told.out
    for nobody in ("nobody", "-", "x" * 200):
        unknown = await doctor("--", nobody)
        assert (unknown.code, unknown.out) == (1, "")
        assert "there is no run" in unknown.err


async def test_nothing_is_found_where_nothing_runs(database: Database, doctor: Doctor) -> None:
    """No server was asked for, so that the canary is not published is said and is no finding."""
    told = await well(doctor, text=True)
    assert told.code == 0
    assert "no other process of Tailrace is heard" in told.out
    assert await value(database, "select count(*) from tailrace.runs") == 0


async def test_a_stopped_outbox_is_found(settings: MakeSettings, database: Database, doctor: Doctor) -> None:
    """Its run is named; so is the canary's fate, because other processes are there; started again, nothing is found."""
    async with (
        served(settings(), role="api") as api,
        served(settings(), app=AGENTS, role="worker"),
        served(settings(), role="outbox") as outbox,
    ):
        run_id = await start(api, "wait", until_type="NodeStarted")
        # An event reaches a stream a moment before it is marked: frozen between, this run would be behind too.
        await until(lambda: published(database, run_id))
        outbox.freeze()
        async with tailrace.Client(api.address) as client:
            stuck = (await client.start("echo")).run_id
        told = await finding(doctor, [Code.OUTBOX_BEHIND])
        assert told.codes == [Code.OUTBOX_BEHIND]
        (named,) = [found for found in told.findings if "runId" in found]
        assert (named["runId"], named["severity"]) == (stuck, "critical")
        assert "restart the outbox" in named["action"]
        assert (await doctor(stuck)).of("outbox-behind")["runId"] == stuck
        assert (await well(doctor, run_id)).findings == []
        outbox.thaw()

        await until(lambda: published(database, stuck, ended=True))
        assert (await well(doctor)).findings == []


@pytest.mark.parametrize("which", ["next", "last", "published"])
async def test_a_deleted_event_is_a_gap(server: Served, database: Database, doctor: Doctor, which: str) -> None:
    """Where the outbox stands, at the end of the log, and among what was published: never taken for a slow outbox."""
    run_id = await start(server, "wait", until_type="NodeStarted")
    await until(lambda: published(database, run_id))
    await server.kill()
    if which != "published":
        await execute(
            database,
            "with more as (insert into tailrace.run_events (run_id, seq, ts, type, source, fn)"
            " select $1, seq, 1, 'DebugTrace', 'worker', 't' from generate_series(3, 6) as seq)"
            " update tailrace.runs set last_seq = 6 where id = $1",
            run_id,
        )
    missing = {"next": 3, "last": 6, "published": 2}[which]
    await execute(database, "delete from tailrace.run_events where run_id = $1 and seq = $2", run_id, missing)
    for told in (await doctor(), await doctor(run_id)):
        gap = told.of("seq-gap")
        assert (gap["runId"], gap["severity"]) == (run_id, "critical")
        assert f"the event {missing} is not there: the last good seq is {missing - 1}" in gap["detail"]
        assert "engineering" in gap["action"]
        assert any("runId" in f for f in told.findings if f["code"] == "outbox-behind") is (which == "last")


async def test_a_hole_in_a_run_that_has_ended_is_a_gap_too(server: Served, database: Database, doctor: Doctor) -> None:
    """Nothing will stumble over it any more but the clients; so it is looked for, without being given the run."""
    run_id = await start(server, "echo", until_type="RunFinished")
    await until(lambda: published(database, run_id, ended=True))
    assert (await well(doctor)).findings == []
    await execute(database, "delete from tailrace.run_events where run_id = $1 and seq = 2", run_id)
    for told in (await doctor(), await doctor(run_id)):
        gap = told.of("seq-gap")
        assert gap["runId"] == run_id
        assert "the event 2 is not there: the last good seq is 1" in gap["detail"]
        assert "it was published" in gap["detail"]


async def test_a_run_that_nobody_takes_is_found(settings: MakeSettings, database: Database, doctor: Doctor) -> None:
    """The worker that served its agent was killed; a younger run, and one that was cancelled, are none."""
    async with served(settings(), app=AGENTS) as server:
        await start(server, "echo", until_type="RunFinished")
    runs = Runs(database)
    await queued(runs, agent="echo", run_id="young")
    # However long the doctor needs to get there.
    await execute(database, "update tailrace.runs set created_at = now() + interval '1 h' where id = 'young'")
    told = await finding(doctor, [Code.OUTBOX_BEHIND], TAILRACE_LEASE_SECONDS="1")
    assert told.codes == [Code.OUTBOX_BEHIND]
    await execute(database, "update tailrace.runs set created_at = now() - interval '6 s' where id = 'young'")
    for lease in ("1", "30"):
        waiting = (await doctor(TAILRACE_LEASE_SECONDS=lease)).of("not-started")
        assert waiting["runId"] == "young"
        assert "'echo'" in waiting["detail"]
    full = await doctor("young", TAILRACE_LEASE_SECONDS="30")
    assert "not-started" in full.codes
    await runs.cancel("young", 1)
    assert "not-started" not in (await doctor()).codes


async def test_a_queue_before_busy_workers_is_none(database: Database, runs: Runs, doctor: Doctor) -> None:
    """As many leases as a worker may hold, and the agent served just now: the queue waits its turn."""
    await queued(runs, run_id="held")
    leases = Leases(database)
    assert await claim(leases, lease_seconds=600)
    await leases.record_agents(["agent"])
    await queued(runs, run_id="waits")
    await execute(database, "update tailrace.runs set created_at = created_at - interval '10 s' where id = 'waits'")
    await execute(database, "update tailrace.run_outbox set next_seq = 2")
    await execute(database, "update tailrace.run_events set published_at = now()")
    assert (await well(doctor, TAILRACE_WORKER_CONCURRENCY="1")).findings == []
    told = await finding(doctor, [Code.NOT_STARTED], TAILRACE_WORKER_CONCURRENCY="2")
    assert told.codes == [Code.NOT_STARTED]


async def test_a_frozen_worker_stalls_its_run_and_then_loses_its_lease(
    settings: MakeSettings, database: Database, doctor: Doctor
) -> None:
    """SIGSTOP: while its lease lasts the run is stalled, afterwards nobody has it; thawed, it is healthy again."""
    one = settings(lease_seconds=4)
    async with (
        served(settings(), role="api") as api,
        served(settings(), role="outbox"),
        served(one, app=AGENTS, role="worker") as worker,
    ):
        run_id = await start(api, "wait", until_type="NodeStarted")
        worker.freeze()
        frozen_at = asyncio.get_running_loop().time()
        # The lease lasts for as long as the doctor needs to look, and then it has been over for a while.
        await lease(database, run_id, "now() + interval '1 h'")
        stalled = (await doctor(run_id, TAILRACE_STALL_SECONDS="0.5")).of("stalled")
        assert (stalled["runId"], stalled["severity"]) == (run_id, "warning")
        await lease(database, run_id, "now() - interval '3 s'")
        for args in ((), (run_id,)):
            told = await finding(doctor, [Code.LEASE_EXPIRED], *args)
            assert told.codes == [Code.LEASE_EXPIRED]
            assert told.of("lease-expired")["runId"] == run_id
        # By its own clock it is over as well: it does not go on where it stood.
        await asyncio.sleep(max(0.0, frozen_at + one.lease_seconds + 0.5 - asyncio.get_running_loop().time()))
        worker.thaw()

        async def resumed() -> bool | None:
            found = await value(
                database,
                "select true from tailrace.run_events where run_id = $1 and fn = 'run.resumed'"
                " and published_at is not null",
                run_id,
            )
            return True if found else None

        await until(resumed)
        await until(lambda: published(database, run_id))
        assert (await well(doctor)).findings == []


async def lease(database: Database, run_id: RunId, until_when: str) -> None:
    """Let the run's lease last until then."""
    await execute(database, f"update tailrace.runs set lease_until = {until_when} where id = $1", run_id)
