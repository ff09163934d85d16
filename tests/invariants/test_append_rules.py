"""The rules of the append statement, attacked through the repository."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from tailrace.errors import RunTerminated
from tailrace.model import draft
from tailrace.model.draft import Draft
from tailrace.model.event import EventType
from tailrace.model.run import Lease, RunState
from tailrace.store.database import Database
from tailrace.store.events import Events, RunAppend, RunHead
from tailrace.store.leases import Leases
from tailrace.store.outbox import Outbox
from tailrace.store.runs import Runs
from tests.write_support import (
    NOW_MS,
    add,
    claim,
    execute,
    expire,
    fetch,
    fill,
    queued,
    started,
    traces,
    types,
    until_waiting_for_a_lock,
    value,
    verified_log,
)


async def test_events_are_added_right_after_the_last_one(
    database: Database, runs: Runs, leases: Leases, events: Events
) -> None:
    """Invariant 1: no gaps, and last_seq is the highest persisted seq."""
    lease = await started(runs, leases)
    heads = await events.append([add(lease, 2, traces(3))])
    assert heads == {lease.run_id: RunHead("started", lease.epoch, 1)}
    await events.append([add(lease, 5, traces(2))])
    assert [event.fn for event in await verified_log(database, lease.run_id)] == [None, "t0", "t1", "t2", "t0", "t1"]


@pytest.mark.parametrize("first_seq", [1, 2, 4, 5, 100])
async def test_an_append_at_any_other_place_writes_nothing(
    database: Database, runs: Runs, leases: Leases, events: Events, first_seq: int
) -> None:
    """Neither over what is there nor beyond the end."""
    lease = await started(runs, leases)
    await fill(events, lease, 1)
    before = await verified_log(database, lease.run_id)
    heads = await events.append([add(lease, first_seq, traces(2, "wrong"))])
    assert heads[lease.run_id].last_seq == 2
    assert await verified_log(database, lease.run_id) == before


@pytest.mark.parametrize("epoch_change", [-1, 1])
async def test_an_append_under_another_epoch_writes_nothing(
    database: Database, runs: Runs, leases: Leases, events: Events, epoch_change: int
) -> None:
    """Invariant 6: neither an old lease nor one that was never given."""
    lease = await started(runs, leases)
    batch = RunAppend(lease.run_id, lease.epoch + epoch_change, 2, traces(1))
    assert (await events.append([batch]))[lease.run_id].epoch == lease.epoch
    assert types(await verified_log(database, lease.run_id)) == ["RunStarted"]


async def test_an_append_to_a_run_that_is_only_queued_or_unknown_writes_nothing(
    database: Database, runs: Runs, events: Events
) -> None:
    """Only a lease gives the right to write."""
    run_id = await queued(runs)
    heads = await events.append([RunAppend(run_id, 0, 2, traces(1)), RunAppend("nobody", 0, 1, traces(1))])
    assert heads == {run_id: RunHead("queued", 0, 1)}
    assert types(await verified_log(database, run_id)) == ["RunStarted"]
    assert await value(database, "select count(*) from tailrace.run_events") == 1


@pytest.mark.parametrize(
    ("terminal", "state"),
    [
        (draft.run_finished(1), RunState.FINISHED),
        (draft.run_failed(ValueError("x"), 1, max_bytes=1000), RunState.FAILED),
        (draft.run_cancelled(1), RunState.CANCELLED),
    ],
    ids=["finished", "failed", "cancelled"],
)
async def test_nothing_is_added_after_a_terminal_event(
    database: Database, runs: Runs, leases: Leases, events: Events, terminal: Draft, state: RunState
) -> None:
    """Invariant 2: the run ends in one commit with its event, and every later append of the same lease is refused."""
    lease = await started(runs, leases)
    await events.append([add(lease, 2, [*traces(1), terminal], state=state)])
    for drafts, following in ((traces(1), None), ([terminal], state), ([draft.run_finished(1)], RunState.FINISHED)):
        heads = await events.append([add(lease, 4, drafts, state=following)])
        assert heads[lease.run_id].state == state
    log = await verified_log(database, lease.run_id)
    assert len(log) == 3
    row = (await fetch(database, "select * from tailrace.runs where id = $1", lease.run_id))[0]
    assert (row["state"], row["lease_owner"], row["lease_until"]) == (state, None, None)
    assert row["finished_at"] is not None


async def test_one_run_that_is_refused_does_not_keep_the_others_from_committing(
    database: Database, runs: Runs, leases: Leases, events: Events
) -> None:
    """A batch of five: old epoch, wrong place, ended, unknown, and one that is right."""
    old, misplaced, ended, right = [await started(runs, leases) for _ in range(4)]
    await fill(events, ended, 0, ends=True)
    await expire(database, old.run_id)
    (new,) = await claim(leases, worker="w2")
    heads = await events.append(
        [
            add(old, 2, traces(2)),
            add(misplaced, 7, traces(2)),
            add(ended, 3, traces(2)),
            RunAppend("unknown", 1, 2, traces(1)),
            add(right, 2, traces(2)),
        ]
    )
    assert heads == {
        old.run_id: RunHead("started", new.epoch, 1),
        misplaced.run_id: RunHead("started", misplaced.epoch, 1),
        ended.run_id: RunHead("finished", ended.epoch, 2),
        right.run_id: RunHead("started", right.epoch, 1),
    }
    lengths = [len(await verified_log(database, lease.run_id)) for lease in (old, misplaced, ended, right)]
    assert lengths == [1, 1, 2, 3]


async def test_a_terminal_event_in_the_middle_of_a_batch_is_refused_by_postgres(
    database: Database, runs: Runs, leases: Leases, events: Events
) -> None:
    """Even when the code above has lost its mind, the log has not."""
    lease = await started(runs, leases)
    with pytest.raises(asyncpg.CheckViolationError):
        await events.append([add(lease, 2, [draft.run_finished(1), *traces(1)], state=RunState.FINISHED)])
    assert types(await verified_log(database, lease.run_id)) == ["RunStarted"]
    assert (await runs.get(lease.run_id)).state == RunState.STARTED


async def test_an_append_that_waits_for_a_takeover_sees_it_and_writes_nothing(
    database: Database, runs: Runs, leases: Leases, events: Events
) -> None:
    """Invariant 6 at its narrowest: the epoch changes while the append waits for the run's row."""
    lease = await started(runs, leases)
    async with database.transaction() as connection:
        await connection.execute(
            f'update "{database.schema}".runs set epoch = epoch + 1 where id = $1',
            lease.run_id,
        )
        appending = asyncio.create_task(events.append([add(lease, 2, traces(1))]))
        await until_waiting_for_a_lock(database)
    assert (await appending)[lease.run_id].epoch == lease.epoch + 1
    assert types(await verified_log(database, lease.run_id)) == ["RunStarted"]


async def test_an_append_that_waits_for_a_renewal_is_written(
    database: Database, runs: Runs, leases: Leases, events: Events
) -> None:
    """A change of the row that leaves the fence alone costs the wait and nothing else."""
    lease = await started(runs, leases)
    async with database.transaction() as connection:
        await connection.execute(
            f"update \"{database.schema}\".runs set lease_until = now() + interval '1 hour' where id = $1",
            lease.run_id,
        )
        appending = asyncio.create_task(events.append([add(lease, 2, traces(2))]))
        await until_waiting_for_a_lock(database)
    await appending
    assert len(await verified_log(database, lease.run_id)) == 3


async def test_of_two_that_append_the_same_seq_at_once_one_writes(
    database: Database, runs: Runs, leases: Leases, events: Events
) -> None:
    """Invariant 1 under a race of twenty: the log takes one of them at each place."""
    lease = await started(runs, leases)
    for turn in range(5):
        await asyncio.gather(*(events.append([add(lease, 2 + turn, traces(1, f"by{n}-"))]) for n in range(20)))
        assert len(await verified_log(database, lease.run_id)) == 2 + turn


async def test_batches_that_name_the_same_runs_in_opposite_order_do_not_deadlock(
    database: Database, runs: Runs, leases: Leases, events: Events
) -> None:
    """Rows are locked by id, whatever the order of the batch."""
    held = [await started(runs, leases) for _ in range(10)]

    async def append_all(order: list[Lease]) -> None:
        for _ in range(20):
            await events.append([add(lease, 2, traces(1)) for lease in order])

    await asyncio.gather(append_all(held), append_all(held[::-1]), append_all(held[5:] + held[:5]))
    for lease in held:
        assert len(await verified_log(database, lease.run_id)) == 2


async def test_cancel_and_append_and_claim_serialise_on_the_run(
    database: Database, runs: Runs, leases: Leases, events: Events
) -> None:
    """Many runs cancelled while they are claimed and ended: each ends once, state and event agree."""
    ids = [await queued(runs) for _ in range(60)]

    async def end() -> None:
        for _ in range(10):
            for lease in await claim(leases, limit=6):
                await events.append([add(lease, 2, [draft.run_finished(NOW_MS)], state=RunState.FINISHED)])

    async def cancel(run_id: str) -> None:
        try:
            await runs.cancel(run_id, NOW_MS)
        except RunTerminated:
            assert (await runs.get(run_id)).state != RunState.QUEUED

    await asyncio.gather(end(), *(cancel(run_id) for run_id in ids), end())
    ends = set()
    for run_id in ids:
        log = await verified_log(database, run_id)
        assert len(log) == 2
        ends.add(log[-1].type)
    assert ends <= {"RunFinished", "RunCancelled"}


async def test_what_is_published_is_exactly_what_is_below_the_cursor(
    database: Database, runs: Runs, leases: Leases, events: Events, outbox: Outbox
) -> None:
    """Invariant 4: next_seq - 1 is the highest published seq, and published_at is set on exactly those."""
    lease = await started(runs, leases)
    await fill(events, lease, 9, ends=True)
    for published in (4, 8, 11):
        async with outbox.transaction() as transaction:
            (taken,) = await transaction.take([lease.run_id], [], runs_max=1, events_max=4)
            more = await transaction.advance([taken])
        run = await runs.get(lease.run_id)
        assert run.next_seq - 1 == published
        assert run.backlog == 11 - published
        assert more == ([] if published == 11 else [lease.run_id])
        await verified_log(database, lease.run_id)
    assert await value(database, "select open from tailrace.run_outbox") is False


async def test_a_step_is_kept_in_the_commit_of_its_event_or_not_at_all(
    database: Database, runs: Runs, leases: Leases, events: Events
) -> None:
    """A refused append keeps no result, an accepted one keeps it with the seq of its NodeFinished."""
    lease = await started(runs, leases)
    node = [draft.node_started("n", 1), draft.node_finished("n", 1)]
    await events.append([RunAppend(lease.run_id, lease.epoch - 1, 2, node, [("n#1", 3, "1")])])
    assert await leases.kept_steps(lease.run_id) == {}
    await events.append([RunAppend(lease.run_id, lease.epoch, 2, node, [("n#1", 3, "null")])])
    assert await leases.kept_steps(lease.run_id) == {"n#1": "null"}
    assert types(await verified_log(database, lease.run_id)) == [
        EventType.RUN_STARTED, EventType.NODE_STARTED, EventType.NODE_FINISHED,
    ]  # fmt: skip
    await execute(database, "delete from tailrace.runs where id = $1", lease.run_id)
    assert await leases.kept_steps(lease.run_id) == {}
