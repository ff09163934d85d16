"""Runs whose agent nobody serves any more: who is given up, who is not, and by whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import tailrace
from tailrace.model.run import RunState
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.leases import Leases
from tailrace.store.runs import Runs
from tailrace.telemetry import JobStarted
from tailrace.worker import worker
from tailrace.worker.attendance import Attendance
from tests.conftest import LEASE_SECONDS
from tests.write_support import NOW_MS, execute, expire, fetch, queued, running, started, types, until, verified_log

MakeSettings = Callable[..., Settings]

# Workers here judge by the leases of ``settings()``: what is silent for longer than STALL is gone for them too.
LEASE, STALL = float(LEASE_SECONDS), 3.0 * LEASE_SECONDS


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker of this process has watched for long enough."""
    monkeypatch.setattr(Attendance, "witnessed_seconds", lambda _: 1e9)


async def seen(database: Database, agent: str, seconds_ago: float) -> None:
    """Record that a worker served the agent, and that this is so long ago."""
    await execute(
        database,
        "insert into tailrace.agents (name, seen_at) values ($1, clock_timestamp() - make_interval(secs => $2))"
        " on conflict (name) do update set seen_at = excluded.seen_at",
        agent,
        seconds_ago,
    )


async def waited(database: Database, run_id: str, seconds: float) -> None:
    """Let a run have been created so long ago."""
    await execute(
        database,
        "update tailrace.runs set created_at = clock_timestamp() - make_interval(secs => $2) where id = $1",
        run_id,
        seconds,
    )


async def orphans(leases: Leases, *, limit: int = 50, queued_seconds: float | None = STALL) -> set[str]:
    """Claim the orphans as a worker does, and return their ids."""
    claimed = await leases.claim_orphans(
        worker="w", limit=limit, lease_seconds=LEASE, started_seconds=2 * LEASE, queued_seconds=queued_seconds
    )
    return {lease.run_id for lease in claimed}


async def other(run: tailrace.Run) -> str:
    return "done"


@pytest.mark.usefixtures("witness")
async def test_a_started_run_of_an_agent_that_is_gone_ends_in_run_failed(
    database: Database, settings: MakeSettings, runs: Runs, leases: Leases
) -> None:
    """Under a new epoch, by a worker with other agents, with a message that names the agent and says what to do."""
    lease = await started(runs, leases, worker="dead")
    await expire(database, lease.run_id)
    await seen(database, "agent", 3 * LEASE)
    async with running(settings(), {"other": other}) as app:
        run = await app.ended(lease.run_id)
        assert (await app.told.until(JobStarted)).epoch == lease.epoch + 1
        assert (await app.ended(await app.start("other"))).state == RunState.FINISHED
    assert (run.state, run.error_class) == (RunState.FAILED, "AgentGone")
    assert "'agent'" in (run.error_message or "")
    assert "start" in (run.error_message or "")
    assert types(await verified_log(database, lease.run_id)) == ["RunStarted", "RunFailed"]
    rows = await fetch(database, "select epoch from tailrace.run_events where run_id = $1 order by seq", lease.run_id)
    assert [row["epoch"] for row in rows] == [0, lease.epoch + 1]


@pytest.mark.usefixtures("witness")
async def test_a_run_that_was_asked_to_end_is_cancelled_though_its_agent_is_gone(
    database: Database, settings: MakeSettings, runs: Runs, leases: Leases
) -> None:
    """The caller was told 202; that is how the run ends."""
    lease = await started(runs, leases, worker="dead")
    await runs.cancel(lease.run_id, NOW_MS)
    await expire(database, lease.run_id)
    async with running(settings(), {"other": other}) as app:
        assert (await app.ended(lease.run_id)).state == RunState.CANCELLED
    await verified_log(database, lease.run_id)


@pytest.mark.usefixtures("witness")
async def test_a_queued_run_of_an_agent_that_nobody_has_ever_served_ends_in_run_failed(
    database: Database, settings: MakeSettings, runs: Runs
) -> None:
    """There is no record of the agent; the run's own age says how long nobody has come."""
    run_id = await queued(runs, agent="misspelt")
    await waited(database, run_id, STALL + 1)
    async with running(settings(), {"other": other}) as app:
        run = await app.ended(run_id)
    assert (run.state, run.error_class) == (RunState.FAILED, "AgentGone")
    assert "'misspelt'" in (run.error_message or "")


async def test_a_started_run_is_an_orphan_when_its_agent_was_silent_for_two_leases(
    database: Database, runs: Runs, leases: Leases
) -> None:
    """A live worker of another process, seen within two leases, or a lease that has not run out, keeps the run."""
    lease = await started(runs, leases, worker="dead")
    await seen(database, "agent", 3 * LEASE)
    assert await orphans(leases) == set()
    await expire(database, lease.run_id)
    await seen(database, "agent", 1.5 * LEASE)
    assert await orphans(leases) == set()
    await seen(database, "agent", 2.1 * LEASE)
    assert await orphans(leases, queued_seconds=None) == {lease.run_id}
    assert await orphans(leases) == set()


async def test_a_queued_run_is_an_orphan_when_it_has_waited_and_its_agent_was_silent_for_long(
    database: Database, runs: Runs, leases: Leases
) -> None:
    """Both: a run that was just accepted waits its own time, as for a worker that is started on demand."""
    run_id = await queued(runs)
    await seen(database, "agent", STALL + 1)
    assert await orphans(leases) == set()
    await waited(database, run_id, STALL + 1)
    await seen(database, "agent", STALL / 2)
    assert await orphans(leases) == set()
    await seen(database, "agent", STALL + 1)
    assert await orphans(leases, queued_seconds=None) == set()
    assert await orphans(leases, queued_seconds=1e300) == set()
    assert await orphans(leases) == {run_id}


async def test_a_turn_claims_a_bounded_number_and_two_workers_never_the_same(
    database: Database, runs: Runs, leases: Leases
) -> None:
    """Ten orphans, four claims at once: each of them once."""
    ids = set()
    for _ in range(10):
        run_id = await queued(runs)
        await waited(database, run_id, STALL + 1)
        ids.add(run_id)
    claimed = await asyncio.gather(*(orphans(leases, limit=3) for _ in range(4)))
    assert max(len(found) for found in claimed) <= 3
    assert sum(len(found) for found in claimed) == len(set().union(*claimed))
    while found := await orphans(leases, limit=3):
        claimed.append(found)
    assert set().union(*claimed) == ids


@pytest.mark.usefixtures("witness")
async def test_more_orphans_than_one_turn_takes_end_all_the_same(
    database: Database, settings: MakeSettings, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full turn is followed by the next at once, not after a third of the lease; nor do they wait for a place: this
    worker has as many runs as it takes."""
    monkeypatch.setattr(worker, "ORPHANS_MAX_RUNS", 2)
    ids = [await queued(runs, agent="gone") for _ in range(7)]
    for run_id in ids:
        await waited(database, run_id, 24 * 3600)
    busy, enough = asyncio.Event(), asyncio.Event()

    async def agent(run: tailrace.Run) -> None:
        busy.set()
        await enough.wait()

    async with running(settings(lease_seconds=3600, worker_concurrency=1), agent) as app:
        await app.start()
        await busy.wait()
        for run_id in ids:
            assert (await app.ended(run_id)).error_class == "AgentGone"
        enough.set()


async def test_after_an_outage_nobody_is_taken_for_gone_before_everybody_could_be_seen(leases: Leases) -> None:
    """A worker is a witness once it has recorded its own agents without an interruption of a lease."""
    now = 1000.0
    attendance = Attendance(["a"], leases, lease_seconds=LEASE, clock=lambda: now)
    assert attendance.witnessed_seconds() == 0
    for _ in range(7):
        await attendance.record_once()
        now += LEASE / 3
    assert attendance.witnessed_seconds() == pytest.approx(7 * LEASE / 3)
    now += LEASE
    assert attendance.witnessed_seconds() == 0
    await attendance.record_once()
    assert attendance.witnessed_seconds() == 0
    now += LEASE / 3
    assert attendance.witnessed_seconds() == pytest.approx(LEASE / 3)


async def test_the_first_worker_after_an_outage_leaves_the_runs_of_the_others_alone(
    database: Database, settings: MakeSettings, runs: Runs, leases: Leases
) -> None:
    """All records are old, since nobody could write any; its duties run, and conclude nothing yet."""
    lease = await started(runs, leases, worker="dead")
    await expire(database, lease.run_id)
    await seen(database, "agent", 24 * 3600)
    async with running(settings(lease_seconds=3600), {"other": other}) as app:
        for _ in range(3):
            await app.ended(await app.start("other"))
        assert (await runs.get(lease.run_id)).state == RunState.STARTED

    async def served(run: tailrace.Run) -> str:
        return "resumed"

    async with running(settings(), served) as app:
        assert (await app.ended(lease.run_id)).output == '"resumed"'


async def test_a_worker_keeps_the_record_of_its_agents_fresh(database: Database, settings: MakeSettings) -> None:
    """In database time, again and again."""

    async def fresh() -> bool | None:
        rows = await fetch(
            database, "select 1 from tailrace.agents where name = 'other' and seen_at > now() - interval '1 hour'"
        )
        return True if rows else None

    async with running(settings(lease_seconds=1), {"other": other}):
        for _ in range(2):
            await seen(database, "other", 24 * 3600)
            await until(fresh)


@pytest.mark.parametrize("owner", ["frozen", None])
async def test_whoever_ends_an_orphan_fences_the_one_who_held_it(
    database: Database, settings: MakeSettings, runs: Runs, leases: Leases, owner: str | None
) -> None:
    """A claim is a claim: the old epoch renews nothing any more."""
    lease = await started(runs, leases, worker="frozen")
    if owner is None:
        await leases.release({lease.run_id: lease.epoch}, worker="frozen")
    else:
        await expire(database, lease.run_id)
    assert await orphans(leases) == {lease.run_id}
    assert await leases.renew({lease.run_id: lease.epoch}, LEASE) == set()
