"""The rules that Postgres itself keeps, attacked by SQL that goes around the code."""

from __future__ import annotations

import itertools

import asyncpg
import pytest

from tailrace.model.event import DATA_TYPES, FN_TYPES, NAMED_TYPES, TERMINAL_TYPES, EventType
from tailrace.model.run import TERMINAL_STATES, TRANSITIONS, RunState
from tailrace.store.database import Database
from tailrace.store.events import Events
from tailrace.store.leases import Leases
from tailrace.store.runs import Runs
from tests.write_support import claim, execute, expire, fetch, fill, queued, started, value, verified_log

INSERT_EVENT = """
insert into tailrace.run_events (run_id, seq, ts, type, source, name, fn, data)
values ($1, $2, 1, $3, 'worker', $4, $5, $6::json)
"""


async def insert(
    database: Database, run_id: str, seq: int, kind: str, *, data: str | None = None, **change: str | None
) -> None:
    """Insert an event whose name and fn fit its type, unless ``change`` says otherwise."""
    name = change.get("name", "n" if kind in NAMED_TYPES else None)
    fn = change.get("fn", "f" if kind in FN_TYPES else None)
    await execute(database, INSERT_EVENT, run_id, seq, kind, name, fn, data)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(RunState, RunState)))
async def test_the_trigger_allows_exactly_the_transitions_of_the_table(
    database: Database, before: RunState, after: RunState
) -> None:
    """Every pair of states: Postgres and ``TRANSITIONS`` say the same."""
    await execute(
        database,
        """
        insert into tailrace.runs (id, agent, state, started_at, finished_at)
        values ('r', 'a', $1::text, now(), case when $1::text = any($2::text[]) then now() end)
        """,
        before,
        list(TERMINAL_STATES),
    )
    move = """
        update tailrace.runs set
            state = $1::text, finished_at = case when $1::text = any($2::text[]) then coalesce(finished_at, now()) end
        where id = 'r'
    """
    if before == after or after in TRANSITIONS[before]:
        await execute(database, move, after, list(TERMINAL_STATES))
        assert await value(database, "select state from tailrace.runs") == after
    else:
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await execute(database, move, after, list(TERMINAL_STATES))
        assert refused.value.constraint_name == "runs_state_follows_the_table"
        assert f"from {before} to {after}" in str(refused.value)


@pytest.mark.parametrize(
    ("columns", "values", "constraint"),
    [
        ("state", "'paused'", "runs_state_is_legal"),
        ("state", "'Started'", "runs_state_is_legal"),
        ("last_seq", "-1", "runs_last_seq_is_legal"),
        ("state, started_at", "'finished', now()", "runs_finished_at_with_terminal_state"),
        ("finished_at", "now()", "runs_finished_at_with_terminal_state"),
        ("state", "'started'", "runs_started_at_with_started_state"),
        ("state, finished_at", "'finished', now()", "runs_started_at_with_started_state"),
        ("lease_until", "now()", "runs_queued_without_lease"),
        ("idempotency_key", "'k'", "runs_idempotency_key_with_hash"),
        ("request_hash", "'h'", "runs_idempotency_key_with_hash"),
    ],
)
async def test_a_run_that_contradicts_itself_is_refused(
    database: Database, columns: str, values: str, constraint: str
) -> None:
    """State, times, lease and keys of a run fit each other, whoever writes them."""
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await execute(database, f"insert into tailrace.runs (id, agent, {columns}) values ('r', 'a', {values})")
    assert refused.value.constraint_name == constraint


@pytest.mark.parametrize("run_id", ["", "-a", "a b", "a\n", "a" * 129, "é", "a/b"])
async def test_an_illegal_run_id_is_refused(database: Database, run_id: str) -> None:
    """The column keeps the pattern of the contract."""
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await execute(database, "insert into tailrace.runs (id, agent) values ($1, 'a')", run_id)
    assert refused.value.constraint_name == "runs_id_is_legal"


async def test_a_seq_is_taken_once(database: Database, runs: Runs, leases: Leases, events: Events) -> None:
    """Invariant 1: (run_id, seq) is unique."""
    lease = await started(runs, leases)
    await fill(events, lease, 3)
    with pytest.raises(asyncpg.UniqueViolationError):
        await insert(database, lease.run_id, 3, EventType.DEBUG_TRACE)
    await verified_log(database, lease.run_id)


@pytest.mark.parametrize("kind", sorted(TERMINAL_TYPES))
async def test_a_second_terminal_event_is_refused(
    database: Database, runs: Runs, leases: Leases, events: Events, kind: str
) -> None:
    """Invariant 2: one terminal event a run, of whatever type."""
    lease = await started(runs, leases)
    await fill(events, lease, 1, ends=True)
    with pytest.raises(asyncpg.UniqueViolationError) as refused:
        await insert(database, lease.run_id, 4, kind)
    assert refused.value.constraint_name == "run_events_one_terminal"
    await verified_log(database, lease.run_id)


@pytest.mark.parametrize("kind", sorted(set(EventType) - TERMINAL_TYPES - {EventType.RUN_STARTED}))
async def test_an_event_after_the_terminal_one_is_refused(
    database: Database, runs: Runs, leases: Leases, events: Events, kind: str
) -> None:
    """Invariant 2: nothing after it."""
    lease = await started(runs, leases)
    await fill(events, lease, 1, ends=True)
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await insert(database, lease.run_id, 4, kind)
    assert refused.value.constraint_name == "run_events_terminal_is_last"
    await verified_log(database, lease.run_id)


async def test_a_terminal_event_before_existing_ones_is_refused(
    database: Database, runs: Runs, leases: Leases, events: Events
) -> None:
    """Invariant 2 from behind: a row is deleted, and a terminal event put in its place."""
    lease = await started(runs, leases)
    await fill(events, lease, 3)
    await execute(database, "delete from tailrace.run_events where run_id = $1 and seq = 3", lease.run_id)
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await insert(database, lease.run_id, 3, EventType.RUN_FINISHED)
    assert refused.value.constraint_name == "run_events_terminal_is_last"


async def test_a_statement_that_brings_its_own_terminal_event_in_the_middle_is_refused(
    database: Database, runs: Runs, leases: Leases
) -> None:
    """The rule holds within one statement too, while a statement that ends two runs properly passes."""
    first, second = await started(runs, leases), await started(runs, leases)
    rows = """
        insert into tailrace.run_events (run_id, seq, ts, type, source, fn)
        select run_id, seq, 1, type, 'worker', fn
        from unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) as rows (run_id, seq, type, fn)
    """
    ids = [first.run_id, first.run_id, second.run_id, second.run_id]
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await execute(
            database, rows, ids, [2, 3, 2, 3],
            ["DebugTrace", "RunFinished", "RunFinished", "DebugTrace"], ["f", None, None, "f"],
        )  # fmt: skip
    assert refused.value.constraint_name == "run_events_terminal_is_last"
    assert f"run {second.run_id} ended at seq 2" in str(refused.value)
    await execute(
        database, rows, ids, [3, 2, 3, 2],
        ["RunFinished", "DebugTrace", "RunFinished", "DebugTrace"], [None, "f", None, "f"],
    )  # fmt: skip


async def test_run_started_stands_at_seq_1_and_nowhere_else(database: Database, runs: Runs) -> None:
    """And nothing but it stands there."""
    run_id = await queued(runs)
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await insert(database, run_id, 2, EventType.RUN_STARTED)
    assert refused.value.constraint_name == "run_events_starts_with_run_started"
    await execute(database, "delete from tailrace.run_events where run_id = $1", run_id)
    for kind in set(EventType) - {EventType.RUN_STARTED}:
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await insert(database, run_id, 1, kind)
        assert refused.value.constraint_name == "run_events_starts_with_run_started"


@pytest.mark.parametrize("seq", [0, -1])
async def test_a_seq_below_1_is_refused(database: Database, seq: int) -> None:
    """Positions start at 1."""
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await insert(database, "r", seq, EventType.DEBUG_TRACE)
    assert refused.value.constraint_name == "run_events_seq_is_legal"


@pytest.mark.parametrize("kind", sorted(EventType))
async def test_a_type_carries_exactly_the_columns_of_the_contract(database: Database, runs: Runs, kind: str) -> None:
    """data only on Custom and RunFailed; name on nodes and Custom; fn on DebugTrace and RunFailed."""
    run_id = await queued(runs)
    seq = 1 if kind == EventType.RUN_STARTED else 2
    if seq == 1:
        await execute(database, "delete from tailrace.run_events where run_id = $1", run_id)
    wrong: list[tuple[dict[str, str | None], str]] = [
        ({"name": None if kind in NAMED_TYPES else "n"}, "run_events_name_fits_the_type"),
        ({"fn": None if kind in FN_TYPES else "f"}, "run_events_fn_fits_the_type"),
    ]
    if kind not in DATA_TYPES:
        wrong.append(({"data": "{}"}, "run_events_data_fits_the_type"))
    for change, constraint in wrong:
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await insert(database, run_id, seq, kind, **change)
        assert refused.value.constraint_name == constraint
    await insert(database, run_id, seq, kind, data="{}" if kind in DATA_TYPES else None)


@pytest.mark.parametrize(
    ("sql", "constraint"),
    [
        ("update tailrace.run_events set type = 'NodeSkipped', fn = null where seq = 2", "run_events_type_is_legal"),
        ("update tailrace.run_events set source = 'outbox' where seq = 2", "run_events_source_is_legal"),
        ("update tailrace.run_outbox set next_seq = 0", "run_outbox_next_seq_is_legal"),
    ],
)
async def test_a_word_that_the_contract_does_not_know_is_refused(
    database: Database, runs: Runs, leases: Leases, events: Events, sql: str, constraint: str
) -> None:
    """Types, sources and cursors are closed sets."""
    await fill(events, await started(runs, leases), 1)
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await execute(database, sql)
    assert refused.value.constraint_name == constraint


async def test_the_event_row_proves_who_wrote_it(
    database: Database, runs: Runs, leases: Leases, events: Events
) -> None:
    """Invariant 6: the epoch stands on the row, 0 for what the API wrote."""
    lease = await started(runs, leases)
    await fill(events, lease, 1)
    await expire(database, lease.run_id)
    (second,) = await claim(leases, worker="w2")
    assert second.epoch == lease.epoch + 1
    rows = await fetch(database, "select seq, source, epoch from tailrace.run_events order by seq")
    assert [tuple(row) for row in rows] == [(1, "api", 0), (2, "worker", lease.epoch)]
