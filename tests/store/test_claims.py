"""Claiming, renewing and releasing runs: one owner at a time, by database time."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tailrace.model import draft
from tailrace.model.run import Lease
from tailrace.store.database import Database
from tailrace.store.events import Events, RunAppend
from tailrace.store.leases import Leases
from tailrace.store.runs import Runs
from tests.write_support import (
    AGENT,
    NOW_MS,
    add,
    claim,
    execute,
    expire,
    fetch,
    queued,
    started,
    traces,
    until_waiting_for_a_lock,
    value,
)


async def test_workers_that_race_never_get_the_same_run(runs: Runs, leases: Leases) -> None:
    """Four workers empty a queue of 100; every run goes to one of them, under epoch 1."""
    ids = [await queued(runs) for _ in range(100)]

    async def work(name: str) -> list[Lease]:
        mine: list[Lease] = []
        while batch := await claim(leases, worker=name, limit=3):
            mine += batch
        return mine

    claimed = list(itertools.chain(*await asyncio.gather(*(work(f"w{number}") for number in range(4)))))
    # A worker may find nothing while the others hold what is left: whoever comes later gets it.
    claimed += await claim(leases, limit=100)
    assert sorted(lease.run_id for lease in claimed) == sorted(ids)
    assert {lease.epoch for lease in claimed} == {1}


async def test_workers_that_race_for_an_expired_lease_get_it_once(
    database: Database, runs: Runs, leases: Leases
) -> None:
    """Ten at the same moment, ten times over."""
    lease = await started(runs, leases)
    for turn in range(10):
        await expire(database, lease.run_id)
        batches = await asyncio.gather(*(claim(leases, worker=f"w{number}") for number in range(10)))
        assert [taken.epoch for taken in itertools.chain(*batches)] == [turn + 2]


async def test_the_queue_is_served_in_order_of_arrival(runs: Runs, leases: Leases) -> None:
    """First come, first served, also across batches."""
    ids = [await queued(runs) for _ in range(12)]
    found = [lease.run_id for _ in range(4) for lease in sorted(await claim(leases, limit=3), key=by_number)]
    assert found == ids


def by_number(lease: Lease) -> int:
    return int(lease.run_id.removeprefix("run-"))


async def test_a_run_of_another_agent_is_left_alone(database: Database, runs: Runs, leases: Leases) -> None:
    """Queued or expired."""
    await queued(runs, agent="other")
    (other,) = await leases.claim(worker="w", agents=["other"], limit=1, lease_seconds=1)
    await queued(runs, agent="other")
    await expire(database, other.run_id)
    assert await claim(leases, limit=10) == []
    assert len(await leases.claim(worker="w", agents=[AGENT, "other"], limit=10, lease_seconds=1)) == 2


async def test_an_expired_lease_comes_before_a_full_queue(database: Database, runs: Runs, leases: Leases) -> None:
    """And neither the queue nor a hundred healthy leases keep a rescue waiting; the longest dead comes first."""
    for _ in range(100):
        await queued(runs)
    healthy = await claim(leases, limit=100)
    dead = [healthy[number].run_id for number in (50, 20, 80)]
    for age, run_id in enumerate(reversed(dead), 1):
        await expire(database, run_id)
        await execute(
            database,
            "update tailrace.runs set lease_until = clock_timestamp() - $2 * interval '1 second' where id = $1",
            run_id,
            float(age),
        )
    for _ in range(100):
        await queued(runs)
    rescued = [(await claim(leases, worker="w2"))[0] for _ in range(3)]
    assert [lease.run_id for lease in rescued] == dead
    assert [(lease.epoch, lease.takeovers, lease.resumed) for lease in rescued] == [(2, 1, True)] * 3
    (following,) = await claim(leases, worker="w2")
    assert (following.epoch, following.takeovers, following.resumed) == (1, 0, False)


async def test_a_claim_takes_no_more_than_was_asked_for(database: Database, runs: Runs, leases: Leases) -> None:
    """Expired and queued together count against one limit."""
    held = [await started(runs, leases) for _ in range(5)]
    for lease in held:
        await expire(database, lease.run_id)
    for _ in range(5):
        await queued(runs)
    assert [lease.resumed for lease in await claim(leases, limit=3)] == [True] * 3
    assert sorted(lease.resumed for lease in await claim(leases, limit=4)) == [False] * 2 + [True] * 2
    assert len(await claim(leases, limit=100)) == 3


async def test_only_the_lease_of_a_dead_worker_counts_as_a_takeover(
    database: Database, runs: Runs, leases: Leases
) -> None:
    """A lease that was given back is resumed without being held against the run."""
    lease = await started(runs, leases)
    for turn in range(3):
        await leases.release({lease.run_id: lease.epoch}, worker="w1")
        (lease,) = await claim(leases, worker="w1")
        assert (lease.epoch, lease.takeovers, lease.resumed) == (turn + 2, 0, True)
    await expire(database, lease.run_id)
    (lease,) = await claim(leases, worker="w9")
    assert (lease.epoch, lease.takeovers) == (5, 1)


async def keep_a_step(events: Events, lease: Lease) -> None:
    """Append one kept step right after the lease's last event."""
    drafts = [draft.node_started("Step", NOW_MS), draft.node_finished("Step", NOW_MS)]
    at = lease.last_seq + 2
    steps = [(f"Step#{at}", at, "1")]
    await events.append([RunAppend(lease.run_id, lease.epoch, lease.last_seq + 1, drafts, steps)])


async def die(database: Database, leases: Leases, run_id: str) -> Lease:
    """Let the lease run out and have another worker take the run."""
    await expire(database, run_id)
    (lease,) = await claim(leases, worker="next")
    return lease


async def test_a_kept_step_starts_the_count_of_deaths_anew(
    database: Database, runs: Runs, leases: Leases, events: Events
) -> None:
    """Under the lease that just ended, and no earlier one; what is emitted without being kept is no step further."""
    lease = await started(runs, leases)
    for deaths in (1, 2):
        lease = await die(database, leases, lease.run_id)
        assert lease.takeovers == deaths
    await keep_a_step(events, lease)
    lease = await die(database, leases, lease.run_id)
    assert lease.takeovers == 1
    for deaths in (2, 3):
        await events.append([add(lease, lease.last_seq + 1, traces(5))])
        lease = await die(database, leases, lease.run_id)
        assert lease.takeovers == deaths
    await keep_a_step(events, lease)
    await leases.release({lease.run_id: lease.epoch}, worker="next")
    (lease,) = await claim(leases)
    assert lease.takeovers == 0


async def test_a_lease_that_ended_while_its_worker_was_cut_off_is_no_death(
    database: Database, runs: Runs, leases: Leases
) -> None:
    """Told before somebody else has claimed the run, or afterwards: then the count goes down by that one."""
    lease = await started(runs, leases)
    second = await die(database, leases, lease.run_id)
    await leases.outlived({lease.run_id: lease.epoch, "unknown": 1})
    await expire(database, lease.run_id)
    await leases.outlived({lease.run_id: second.epoch})
    (third,) = await claim(leases)
    assert (third.epoch, third.takeovers) == (3, 0)
    await leases.outlived({lease.run_id: second.epoch})
    assert (await die(database, leases, lease.run_id)).takeovers == 1


async def test_who_outlived_a_lease_takes_it_from_nobody(database: Database, runs: Runs, leases: Leases) -> None:
    """The owner that has it now keeps it, and so does a run that has ended keep its row."""
    lease = await started(runs, leases, worker="first")
    second = await die(database, leases, lease.run_id)
    await leases.outlived({lease.run_id: lease.epoch})
    assert await leases.renew({lease.run_id: second.epoch}, 30) == {lease.run_id}
    assert await value(database, "select lease_owner from tailrace.runs") == "next"
    await execute(
        database,
        "update tailrace.runs set state = 'failed', finished_at = now(), lease_owner = null, lease_until = null",
    )
    before = await fetch(database, "select * from tailrace.runs")
    await leases.outlived({lease.run_id: second.epoch})
    assert await fetch(database, "select * from tailrace.runs") == before


async def test_a_healthy_lease_cannot_be_claimed(runs: Runs, leases: Leases) -> None:
    """However often somebody asks."""
    await started(runs, leases)
    assert [await claim(leases, worker="w2", limit=10) for _ in range(3)] == [[], [], []]


async def test_only_the_right_epoch_renews_and_releases(database: Database, runs: Runs, leases: Leases) -> None:
    """Whoever lost the lease learns it from the answer and changes nothing."""
    lease = await started(runs, leases)
    await expire(database, lease.run_id)
    (second,) = await claim(leases, worker="w2")
    before = await fetch(database, "select * from tailrace.runs")
    assert await leases.renew({lease.run_id: lease.epoch}, 1000) == set()
    assert await leases.renew({lease.run_id: second.epoch + 1}, 1000) == set()
    assert await leases.renew({"unknown": 1}, 1000) == set()
    await leases.release({lease.run_id: lease.epoch}, worker="w2")
    assert await fetch(database, "select * from tailrace.runs") == before
    assert await leases.renew({lease.run_id: second.epoch, "unknown": 1}, 1000) == {lease.run_id}
    assert await value(database, "select lease_until > clock_timestamp() + interval '900 seconds' from tailrace.runs")


async def test_an_owner_that_renews_late_but_before_anyone_came_keeps_the_run(
    database: Database, runs: Runs, leases: Leases
) -> None:
    """The epoch is the fence, not the clock: nobody else has written, so nothing is lost."""
    lease = await started(runs, leases)
    await expire(database, lease.run_id)
    assert await leases.renew({lease.run_id: lease.epoch}, 30) == {lease.run_id}
    assert await claim(leases, worker="w2") == []


async def test_the_clock_of_the_database_decides(database: Database, runs: Runs, leases: Leases) -> None:
    """The deadline lies the lease's length after Postgres's own now, in whichever zone the session is."""
    await queued(runs)
    before = await value(database, "select clock_timestamp()")
    await claim(leases, lease_seconds=12.5)
    after = await value(database, "select clock_timestamp()")
    until = await value(database, "select lease_until from tailrace.runs")
    assert before.timestamp() + 12.5 <= until.timestamp() <= after.timestamp() + 12.5


async def test_a_run_that_was_cancelled_in_the_queue_is_never_claimed(runs: Runs, leases: Leases) -> None:
    """It ended there."""
    run_id = await queued(runs)
    assert await runs.cancel(run_id, 1) == 2
    assert await claim(leases) == []


async def test_a_cancelled_and_started_run_is_told_to_its_worker(runs: Runs, leases: Leases) -> None:
    """Exactly those that were asked to end, and are not over."""
    first, second = await started(runs, leases), await started(runs, leases)
    assert await runs.cancel(first.run_id, 1) is None
    assert await runs.cancel(first.run_id, 1) is None
    assert await leases.cancelled([first.run_id, second.run_id, "unknown"]) == {first.run_id}


async def test_recording_agents_twice_at_once_keeps_each_once(database: Database, leases: Leases) -> None:
    """Workers that start together, with overlapping agents in any order, neither fail nor deadlock."""
    names = [f"a{number}" for number in range(20)]
    await asyncio.gather(*(leases.record_agents(names[turn:] + names[:turn]) for turn in range(10)))
    assert await value(database, "select count(*) from tailrace.agents") == 20
    assert await leases.agent_known("a7")
    assert not await leases.agent_known("a")


@pytest.mark.parametrize("statement", ["renew", "release"])
async def test_leases_are_locked_in_the_order_of_the_append(
    database: Database, runs: Runs, leases: Leases, statement: str
) -> None:
    """By id, whatever the order asked in: while it waits for the first, it holds none of the later ones."""
    # The table holds them in the other order, and so are they asked for.
    ids = sorted([await queued(runs, run_id=run_id) for run_id in ("c", "b", "a")])
    epochs = dict.fromkeys(reversed(ids), (await claim(leases, limit=3))[0].epoch)
    lock = f'select id from "{database.schema}".runs where id = $1 for no key update nowait'
    async with database.transaction() as first, database.transaction() as others:
        await first.execute(lock, ids[0])
        call = leases.renew(epochs, 30) if statement == "renew" else leases.release(epochs, worker="w1")
        waiting = asyncio.ensure_future(call)
        await until_waiting_for_a_lock(database)
        for run_id in ids[1:]:
            await others.execute(lock, run_id)
    await waiting
