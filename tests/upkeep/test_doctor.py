"""`tailrace doctor`: every code by the fault itself, and nothing on a healthy system."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import tailrace
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.leases import Leases
from tailrace.store.runs import Runs
from tailrace.upkeep.finding import Code
from tests.outage_support import Served, served
from tests.servers import Server, free_port, nats, pgbouncer, valkey
from tests.upkeep.conftest import Doctor, canaries
from tests.write_support import claim, execute, fetch, queued, until, value

AGENTS = Path(__file__).parent / "agents.py"
MakeSettings = Callable[..., Settings]
RunId = str


@pytest.fixture
async def server(settings: MakeSettings) -> AsyncIterator[Served]:
    """All roles in a process of their own."""
    async with served(settings(), app=AGENTS) as started:
        yield started


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


async def test_a_healthy_system_has_no_findings(server: Served, doctor: Doctor) -> None:
    """With runs that ended, one in progress, and through the server's own URL too; the text has every hop's time."""
    await start(server, "echo", until_type="RunFinished")
    waiting = await start(server, "wait", until_type="NodeStarted")
    for args in ((), ("--url", server.address), (waiting,)):
        told = await doctor(*args)
        assert (told.code, told.findings) == (0, [])
    text = await doctor(text=True)
    assert text.code == 0
    assert "nothing found" in text.out
    assert "not made" not in text.out
    for hop in ("append", "outbox", "bus", "stream"):
        assert hop in text.out


async def test_a_run_is_explained_by_its_rows(server: Served, doctor: Doctor) -> None:
    """State, both cursors, what stands at next_seq, lease, agent; a run that is not there is an error."""
    run_id = await start(server, "wait", until_type="NodeStarted")
    told = await doctor(run_id, text=True)
    assert told.code == 0
    for said in (run_id, "last_seq", "next_seq", "lease", "everything is published", "a worker served it"):
        assert said in told.out
    for nobody in ("nobody", "-", "x" * 200):
        unknown = await doctor("--", nobody)
        assert (unknown.code, unknown.out) == (1, "")
        assert "there is no run" in unknown.err


async def test_nothing_is_found_where_nothing_runs(database: Database, doctor: Doctor) -> None:
    """No server was asked for, so that the canary is not published is said and is no finding."""
    told = await doctor(text=True)
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
        outbox.freeze()
        async with tailrace.Client(api.address) as client:
            stuck = (await client.start("echo")).run_id
        told = await doctor()
        assert told.codes == [Code.OUTBOX_BEHIND]
        (named,) = [finding for finding in told.findings if "runId" in finding]
        assert (named["runId"], named["severity"]) == (stuck, "critical")
        assert "restart the outbox" in named["action"]
        assert (await doctor(stuck)).of("outbox-behind")["runId"] == stuck
        assert (await doctor(run_id)).findings == []
        outbox.thaw()

        await until(lambda: published(database, stuck, ended=True))
        assert (await doctor()).findings == []


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


async def test_a_run_that_nobody_takes_is_found(settings: MakeSettings, database: Database, doctor: Doctor) -> None:
    """The worker that served its agent was killed; a younger run, and one that was cancelled, are none."""
    async with served(settings(), app=AGENTS) as server:
        await start(server, "echo", until_type="RunFinished")
    runs = Runs(database)
    await queued(runs, agent="echo", run_id="young")
    assert (await doctor(TAILRACE_LEASE_SECONDS="1")).codes == [Code.OUTBOX_BEHIND]
    await execute(database, "update tailrace.runs set created_at = created_at - interval '6 s' where id = 'young'")
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
    assert (await doctor(TAILRACE_WORKER_CONCURRENCY="1")).findings == []
    assert (await doctor(TAILRACE_WORKER_CONCURRENCY="2")).codes == ["not-started"]


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
        stalled = (await doctor(run_id, TAILRACE_STALL_SECONDS="0.5", TAILRACE_LEASE_SECONDS="4")).of("stalled")
        assert (stalled["runId"], stalled["severity"]) == (run_id, "warning")

        async def over() -> bool | None:
            found = await value(
                database, "select lease_until < now() - interval '2 s' from tailrace.runs where id = $1", run_id
            )
            return found or None

        await until(over)
        for told in (await doctor(), await doctor(run_id)):
            assert told.codes == [Code.LEASE_EXPIRED]
            assert told.of("lease-expired")["runId"] == run_id
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
        assert (await doctor()).findings == []


@pytest.mark.parametrize("name", ["run_outbox_open", "runs_leases", "run_steps_pkey"])
async def test_a_dropped_index_is_named_with_the_statement_that_makes_it(
    database: Database, doctor: Doctor, name: str
) -> None:
    """What the finding says to run, run, is the cure; the key of a table is named too."""
    if name == "run_steps_pkey":
        await execute(database, "alter table tailrace.run_steps drop constraint run_steps_pkey")
    else:
        await execute(database, f"drop index tailrace.{name}")
    missing = (await doctor()).of("index-missing")
    assert name in missing["detail"]
    if name != "run_steps_pkey":
        await execute(database, missing["action"].removeprefix("in psql: "))
        assert (await doctor()).findings == []


async def test_an_index_that_was_not_completed_is_named(database: Database, doctor: Doctor) -> None:
    """`create index concurrently` that is interrupted leaves one that Postgres does not use."""
    await execute(database, "update pg_index set indisvalid = false where indexrelid = 'tailrace.runs_queue'::regclass")
    assert "not valid" in (await doctor()).of("index-missing")["detail"]


async def test_an_older_and_a_newer_schema_are_found(database: Database, doctor: Doctor) -> None:
    """Behind names the command; ahead names the package; where there is no schema at all it is behind."""
    (newest,) = await fetch(database, "delete from tailrace.schema_migrations where version = 2 returning version + 0")
    assert newest is not None
    await execute(database, "delete from tailrace.schema_migrations where version > 1")
    behind = (await doctor()).of("schema-behind")
    assert "`tailrace db upgrade`" in behind["action"]
    await execute(database, "insert into tailrace.schema_migrations (version, name) values (9999, 'later')")
    assert "upgrade the tailrace package" in (await doctor()).of("schema-behind")["action"]
    assert (await doctor(TAILRACE_DB_SCHEMA="not_there")).codes == [Code.SCHEMA_BEHIND]


async def test_tables_that_were_altered_by_hand_are_no_traceback(database: Database, doctor: Doctor) -> None:
    """A version that says one thing and tables that say another are a finding as well."""
    await execute(database, "alter table tailrace.runs rename column lease_owner to owner")
    altered = (await doctor()).of("schema-behind")
    assert "lease_owner" in altered["detail"]
    await execute(database, "alter table tailrace.runs rename column owner to lease_owner")


async def test_a_database_that_is_away_or_takes_no_writes_is_found(
    tailrace_database: str, database: Database, doctor: Doctor
) -> None:
    """Refused, and read-only; bad settings are an error of use."""
    away = await doctor(TAILRACE_DATABASE_URL=f"postgresql://nobody:secret@127.0.0.1:{free_port()}/x")
    assert away.codes == [Code.DATABASE_UNREACHABLE]
    assert "secret" not in away.out
    name = await value(database, "select current_database()")
    try:
        await execute(database, f'alter database "{name}" set default_transaction_read_only = on')
        assert "takes no writes" in (await doctor()).of("database-unreachable")["detail"]
    finally:
        await execute(
            database,
            f'begin; set transaction read write; alter database "{name}" reset default_transaction_read_only; commit',
        )
    for usage in (("--url", "nowhere"), ("--nonsense",), ("--url", "http://x", "--api-key-file", "no")):
        assert (await doctor(*usage)).code == 2
    assert (await doctor(TAILRACE_STALL_SECONDS="never")).code == 2


@pytest.mark.parametrize("make", [valkey, nats])
async def test_a_bus_that_stops_is_found(
    settings: MakeSettings, doctor: Doctor, tmp_path: Path, make: Callable[[Path], Server]
) -> None:
    """There it carries the canary's news; killed, it is named, and the canary is published all the same."""
    scheme = "redis" if make is valkey else "nats"
    with make(tmp_path) as bus:
        url = f"{scheme}://127.0.0.1:{bus.port}"
        async with served(settings(), app=AGENTS, TAILRACE_BUS_URL=url):
            healthy = await doctor(text=True, TAILRACE_BUS_URL=url)
            assert healthy.code == 0, healthy.out
            assert "not made" not in healthy.out
            bus.kill()
            told = await doctor(TAILRACE_BUS_URL=url)
            assert told.codes == [Code.BUS_UNREACHABLE]
            assert str(bus.port) in told.of("bus-unreachable")["detail"]


@pytest.mark.skipif(pgbouncer() is None, reason="there is no PgBouncer; .ci/run installs it")
async def test_wake_ups_that_do_not_arrive_are_found(tailrace_database: str, doctor: Doctor) -> None:
    """Through PgBouncer in transaction mode LISTEN is accepted and hears nothing."""
    from tests.bus.test_pgbouncer import pooled  # noqa: PLC0415 - only where there is one

    with pooled(tailrace_database, forgetting=True) as url:
        told = await doctor(TAILRACE_DATABASE_URL=url)
    assert told.codes == [Code.WAKEUP_DEAD]
    assert "polling" in told.of("wakeup-dead")["detail"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_doctor_that_is_stopped_removes_its_canary(
    server: Served, settings: MakeSettings, database: Database, doctor: Doctor, how: signal.Signals
) -> None:
    """Asked to stop in the middle of the walk, it leaves nothing; what a killed one left the next one removes."""
    server.freeze()  # so that the walk waits
    leaving: list[int] = []

    async def stop() -> None:
        async def walking() -> bool | None:
            return await value(database, "select count(*) from tailrace.runs where id like 'canary-%'") or None

        await until(walking)
        found = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]  # noqa: ASYNC240 - it lies in memory
        (pid,) = [pid for pid in found if _is_doctor(pid, database.schema)]
        leaving.append(pid)
        os.kill(pid, how)

    async with asyncio.TaskGroup() as group:
        group.create_task(stop())
        told = await doctor()
    assert leaving
    assert (told.code, told.out) == (130, "")
    server.thaw()


async def test_what_a_killed_doctor_left_behind_is_removed_by_the_next(database: Database, doctor: Doctor) -> None:
    """And a run that merely has such an id stays; neither is ever in a list."""
    runs = Runs(database)
    for run_id in ("canary-old", "canary-young"):
        await queued(runs, run_id=run_id, agent=f"tailrace:canary:{run_id}")
        await Leases(database).record_agents([f"tailrace:canary:{run_id}"])
    await execute(database, "update tailrace.agents set seen_at = now() - interval '1 h' where name like '%canary-old'")
    listed, _ = await runs.list(state=None, agent=None, limit=10, cursor=None)
    assert listed == []
    told = await doctor(leaves=3)
    assert told.findings == []
    assert await canaries(database) == 3
    assert [row["id"] for row in await fetch(database, "select id from tailrace.runs")] == ["canary-young"]


def _is_doctor(pid: int, schema: str) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # It has ended meanwhile.
    return b"doctor" in command.split(b"\0") and f"TAILRACE_DB_SCHEMA={schema}".encode() in variables
