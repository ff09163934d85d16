"""How Postgres finds what the statements ask for, with enough rows that a bad plan would be chosen if it were there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import asyncpg
import pytest

from tailrace.store.database import Connection, Database
from tailrace.store.lines import FIELD, RECORD
from tailrace.store.migrate import upgrade
from tailrace.store.outbox import Outbox
from tailrace.store.queries import query
from tests.write_support import execute, fetch, value

SCHEMA = "plans"
BIG_TABLES = {"runs", "run_events", "run_outbox"}
# 50,000 runs that are over and published, 300 in progress, 100 of them with a dead worker, 500 queued; one long log.
FILL = """
insert into tailrace.runs (
    id, agent, tenant, state, last_seq, epoch, lease_owner, lease_until, created_at, started_at, finished_at
)
select
    'r' || n, case when n in (7, 70, 700) then 'rare' else 'a' || n % 7 end,
    case when n % 500 = 1 then 'small' else 'default' end,
    case when n <= 50000 then 'finished' when n <= 50300 then 'started' else 'queued' end,
    case when n = 50001 then 60000 when n <= 50000 then 2 else 1 end,
    case when n <= 50300 then 1 else 0 end,
    case when n between 50001 and 50300 then 'w' end,
    case when n between 50001 and 50100 then now() - interval '1 hour'
        when n between 50101 and 50300 then now() + interval '1 day' end,
    timestamptz '2026-01-01' + n * interval '1 second',
    case when n <= 50300 then now() end,
    case when n <= 50000 then now() end
from generate_series(1, 50800) as n;

alter table tailrace.run_events disable trigger guard_terminal_is_last;
insert into tailrace.run_events (run_id, seq, ts, type, source, published_at)
select 'r' || n, seq, 1, case seq when 1 then 'RunStarted' else 'RunFinished' end, 'worker',
    case when n <= 50000 then now() end
from generate_series(1, 50800) as n, generate_series(1, 2) as seq
where seq = 1 or n <= 50000;
insert into tailrace.run_events (run_id, seq, ts, type, source, name, data)
select 'r50001', seq, 1, 'Custom', 'worker', 'Progress', '{"done":1}' from generate_series(2, 60000) as seq;
alter table tailrace.run_events enable trigger guard_terminal_is_last;

insert into tailrace.run_outbox (run_id, next_seq, open)
select 'r' || n, case when n <= 50000 then 3 else 1 end, n > 50000 from generate_series(1, 50800) as n;
"""


@pytest.fixture(scope="module")
def filled(tailrace_database: str) -> Iterator[str]:
    """URL of a database whose schema ``plans`` holds many rows; made once, for reading only."""
    asyncio.run(_fill(tailrace_database))
    yield tailrace_database
    asyncio.run(_drop(tailrace_database))


async def _fill(url: str) -> None:
    database = Database(url, schema=SCHEMA, tx_timeout_ms=240_000)
    await database.open()
    await upgrade(database)
    await execute(database, FILL)
    for table in sorted(BIG_TABLES):
        # What is known of the tables stays as it is, however long the tests take.
        await execute(database, f"alter table tailrace.{table} set (autovacuum_enabled = off)")
        await execute(database, f"vacuum analyze tailrace.{table}")
    await database.close()


async def _drop(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(f'drop schema "{SCHEMA}" cascade')
    await connection.close()


@pytest.fixture
async def large(filled: str) -> AsyncIterator[Database]:
    database = Database(filled, schema=SCHEMA, tx_timeout_ms=60_000)
    await database.open()
    # These plans must not stand on what our sessions ask for; one statement at a time is always on this connection.
    await execute(database, "set enable_seqscan = on")
    yield database
    await database.close()


class Node(NamedTuple):
    kind: str
    relation: str
    index_name: str
    rows_read: int


def nodes(plan: dict[str, Any]) -> Iterator[Node]:
    loops = plan.get("Actual Loops", 1)
    read = (plan.get("Actual Rows", 0) + plan.get("Rows Removed by Filter", 0)) * loops
    yield Node(plan["Node Type"], plan.get("Relation Name", ""), plan.get("Index Name", ""), int(read))
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


async def analyzed(database: Database, name: str, *args: Any) -> list[Node]:
    """Return the nodes of the plan for these arguments, executed and rolled back."""
    async with database.connection() as connection:
        statement = await connection.prepare(query(name, SCHEMA))
        explained = await statement.explain(*args, analyze=True)
    return list(nodes(explained[0]["Plan"]))


async def generic(connection: Connection, name: str, parameters: int, *, schema: str = SCHEMA) -> list[Node]:
    """Return the nodes of the plan that holds for any arguments, which Postgres may keep after a few executions."""
    await connection.execute(f"prepare generic_{name} as {query(name, schema)}")
    nulls = ", ".join(["null"] * parameters)
    text = await connection.fetchval(f"explain (format json) execute generic_{name} ({nulls})")
    return list(nodes(json.loads(text)[0]["Plan"]))


def assert_frugal(found: list[Node], *, at_most: int) -> None:
    """No big table is read from end to end, and what is read of them is bounded by what was asked for."""
    assert [node for node in found if node.kind == "Seq Scan" and node.relation in BIG_TABLES] == []
    read = sum(node.rows_read for node in found if node.relation in BIG_TABLES and "Scan" in node.kind)
    assert read <= at_most, found


def indexes(found: list[Node]) -> set[str]:
    return {node.index_name for node in found if node.index_name}


def lines(rows: Iterable[tuple[str, ...]]) -> str:
    return RECORD.join(map(FIELD.join, rows))


# These may read the index of started runs instead of fifty keys, whichever is cheaper.
IN_PROGRESS = 300
RUN_IDS = [f"r{number}" for number in range(50101, 50151)]
PUBLISHED = lines([("r50001", "1", "100", "f"), *((run_id, "1", "1", "f") for run_id in RUN_IDS)])
STATEMENTS: dict[str, tuple[list[Any], int]] = {
    "append": (
        [
            lines((run_id, "1", "2", "3", "", "") for run_id in RUN_IDS),
            lines((run_id, seq, "1", "DebugTrace", "", "f", "") for run_id in RUN_IDS for seq in "23"),
            "",
        ],
        400,
    ),
    "outbox_take_hinted": ([["r50001", *RUN_IDS], 100, 200, 2**20], 200 + 4 * 51),
    "outbox_advance": ([PUBLISHED], 100 + 4 * 51),
    "outbox_advance_from": ([PUBLISHED], 100 + 4 * 51),
    "events_page": (["r50001", 30_000, 60_000, 500, 10**6], 501),
    "events_frames": (["r50001", 30_000, 30_500, 125, 10**6], 501),
    "events_of_many": ([["r50001", *RUN_IDS], [100] + [0] * 50, [60_000] + [1] * 50, 256], 256 + 51),
    "tails": ([["r50001", *RUN_IDS]], 2 * 51),
    "run_show": (["r777", "default"], 4),
    "run_cancel": (["r50500", 1, "default"], 4),
    "lease_renew": ([RUN_IDS, [1] * 50, 30.0], IN_PROGRESS + 100),
    "lease_release": ([RUN_IDS, [1] * 50, "w"], IN_PROGRESS + 100),
    "lease_held": (["w"], IN_PROGRESS),
    "lease_cancelled": ([RUN_IDS], IN_PROGRESS + 100),
    "steps_kept": (["r777"], 0),
    "archive_candidates": ([0.0, datetime(1, 1, 1, tzinfo=UTC), "", 100], 200),
    "archive_page": ([["r50001", "r7"], [100, 0], [600, 2], 2**20], 502),
    "archive_trim": (["w", ["r50001", "r7"], [0, 0], [5000, 1]], 5001),
    "archive_untrimmed": ([0.0, 1000, ""], 0),
    "archive_of_run": (["r777"], 1),
    "archive_first_seq": (["r50001"], 1),
    "purge_events": (["w", "r50001", 0, 5000], 5000),
    "purge_find": ([["r7", "r70"], None, "", 1000], 2 * 2),
}  # fmt: skip


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_statement_reads_what_it_was_asked_for_and_no_table(large: Database, name: str) -> None:
    """By index, at 50,000 runs, 160,000 events and a log of 60,000."""
    args, at_most = STATEMENTS[name]
    assert_frugal(await analyzed(large, name, *args), at_most=at_most)


@pytest.mark.parametrize(("name", "parameters"), [(name, len(args)) for name, (args, _) in STATEMENTS.items()])
async def test_the_plan_for_any_arguments_reads_no_whole_table(large: Database, name: str, parameters: int) -> None:
    """Postgres keeps such a plan when it looks no dearer, so it must not be a trap."""
    async with large.transaction() as connection:
        await connection.execute("set local plan_cache_mode = force_generic_plan")
        assert_frugal(await generic(connection, name, parameters), at_most=0)
        await connection.execute("deallocate all")


@pytest.mark.parametrize(("name", "parameters"), [(name, len(args)) for name, (args, _) in STATEMENTS.items()])
async def test_a_plan_made_on_empty_tables_is_good_for_full_ones(
    database: Database, name: str, parameters: int
) -> None:
    """A session keeps it, and the first one of an installation begins on empty tables."""
    async with database.transaction() as connection:
        await connection.execute("set local plan_cache_mode = force_generic_plan")
        found = await generic(connection, name, parameters, schema=database.schema)
        assert [node for node in found if node.kind == "Seq Scan" and node.relation in BIG_TABLES] == []
        await connection.execute("deallocate all")


async def test_ends_of_runs_are_guarded_at_what_the_inserted_runs_cost(database: Database) -> None:
    """Also in the session that saw the tables empty: what has ended before is not read again with every append."""
    first = "insert into tailrace.runs (id, agent, state, last_seq) values ('first', 'a', 'queued', 1)"
    insert = (
        "insert into tailrace.run_events (run_id, seq, ts, type, source)"
        " select 'r' || n, seq, 1, case seq when 1 then 'RunStarted' else 'RunFinished' end, 'worker'"
        " from generate_series({}, {}) as n, generate_series(1, 2) as seq"
    )
    reads = (
        "select pg_stat_get_xact_tuples_fetched(indexrelid) + pg_stat_get_xact_tuples_returned(indexrelid)"
        " from pg_index where indexrelid = 'tailrace.run_events_one_terminal'::regclass"
    )
    schema = f'"{database.schema}".'
    async with database.connection() as connection:
        for text in (first, insert.format(1, 1), insert.format(2, 3000)):
            await connection.execute(text.replace("tailrace.", schema))
        async with connection.transaction():
            before = await connection.fetchval(reads.replace("tailrace.", schema))
            await connection.execute(insert.format(3001, 3010).replace("tailrace.", schema))
            after = await connection.fetchval(reads.replace("tailrace.", schema))
    assert after - before <= 100


async def test_a_claim_costs_what_it_claims(large: Database) -> None:
    """The dead by lease_until, the queue in its order; neither what is over nor the healthy leases are read."""
    agents = [f"a{number}" for number in range(7)]
    found = await analyzed(large, "lease_claim", "w", agents, 10, 30.0)
    assert_frugal(found, at_most=100)
    assert "runs_leases" in indexes(found)
    async with large.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        everyone_lives = "update {}.runs set lease_until = now() + interval '1 day' where lease_until < now()"
        await connection.execute(everyone_lives.format(SCHEMA))
        statement = await connection.prepare(query("lease_claim", SCHEMA))
        explained = await statement.explain("w", agents, 10, 30.0, analyze=True)
        await connection.execute("set local plan_cache_mode = force_generic_plan")
        assert_frugal(await generic(connection, "lease_claim", 4), at_most=0)
        await connection.execute("deallocate all")
        await transaction.rollback()
    found = list(nodes(explained[0]["Plan"]))
    assert_frugal(found, at_most=100)
    assert {"runs_leases", "runs_queue"} <= indexes(found)


async def test_looking_for_orphans_costs_the_dead_and_the_old_queue(large: Database) -> None:
    """Neither what is over nor the healthy leases are read; a record of seven agents tells 600 runs apart."""
    async with large.connection() as connection, connection.transaction():
        await connection.execute(f"insert into {SCHEMA}.agents (name) select 'a' || n from generate_series(0, 6) as n")
        statement = await connection.prepare(query("orphans_claim", SCHEMA))
        explained = await statement.explain("w", 50, 30.0, 60.0, 600.0, analyze=True)
        await connection.execute("set local plan_cache_mode = force_generic_plan")
        assert_frugal(await generic(connection, "orphans_claim", 5), at_most=0)
        await connection.execute("deallocate all")
        await connection.execute(f"truncate {SCHEMA}.agents")
    found = list(nodes(explained[0]["Plan"]))
    assert_frugal(found, at_most=100 + 500)
    assert {"runs_leases", "runs_queue"} <= indexes(found)


async def test_looking_for_work_costs_what_is_open(large: Database) -> None:
    """800 runs are open and 50,000 are over: the over ones are not read."""
    found = await analyzed(large, "outbox_take", 100, 200, 2**20, ["r50001"])
    assert_frugal(found, at_most=800 + 800 + 100 + 100 + 300)
    assert "run_outbox_open" in indexes(found)


@pytest.mark.parametrize("name", ["outbox_backlog", "outbox_laggards"])
async def test_asking_for_the_backlog_costs_what_is_open(large: Database, name: str) -> None:
    """It is asked by every scrape of the metrics."""
    found = await analyzed(large, name, *([10] if name == "outbox_laggards" else []))
    assert_frugal(found, at_most=3 * 800)


@pytest.mark.parametrize("name", ["health_behind", "health_queued", "health_stalled", "health_expired", "health_gaps"])
async def test_what_the_doctor_looks_through_is_what_is_in_progress(large: Database, name: str) -> None:
    """It is called when there is trouble: it must not read the history while everything else is slow."""
    found = await analyzed(large, name, *((1000, 10, 100) if name == "health_gaps" else (0.1, 10)))
    assert_frugal(found, at_most=5 * 800)
    assert ("runs_to_archive" in indexes(found)) is (name == "health_gaps")  # of what has ended, the newest alone


@pytest.mark.parametrize("agent", [None, "a3", "rare"])
@pytest.mark.parametrize("page", ["first", "deep"])
@pytest.mark.parametrize("tenant", ["default", "small"])
async def test_a_page_of_the_list_costs_a_page(large: Database, agent: str | None, page: str, tenant: str) -> None:
    """Also a deep one: the cursor is a place in the index, not a count to skip.  A small tenant does not pay for the
    runs of a large one.
    """
    created_at = (
        await value(large, "select created_at from tailrace.runs where id = 'r500'") if page == "deep" else None
    )
    found = await analyzed(large, "run_list", None, agent, created_at, "r500" if page == "deep" else None, 51, tenant)
    # An agent that has every seventh run may be found by reading seven runs for one.
    assert_frugal(found, at_most=51 * (2 if agent is None else 10))
    assert indexes(found) & {"runs_newest", "runs_newest_of_tenant", "runs_newest_of_agent"}


@pytest.mark.parametrize(("tenant", "state"), [("default", "failed"), ("small", "started"), ("small", "failed")])
async def test_a_list_by_state_does_not_read_the_other_states(large: Database, tenant: str, state: str) -> None:
    """Also when there are few such runs, or none."""
    found = await analyzed(large, "run_list", state, None, None, None, 51, tenant)
    assert_frugal(found, at_most=10)


@pytest.mark.parametrize(("state", "agent"), [("failed", None), (None, "rare"), ("started", None), (None, None)])
async def test_the_list_of_all_tenants_needs_no_index_of_its_own(
    large: Database, state: str | None, agent: str | None
) -> None:
    """The operator's, and everybody's where there are no keys: Postgres 18 skips from tenant to tenant in the indexes
    that are there.  Earlier ones read the table once for a rare state, which was not worth two more indexes.
    """
    found = await analyzed(large, "run_list", state, agent, None, None, 51, None)
    read = sum(node.rows_read for node in found if node.relation == "runs")
    skips = await value(large, "select current_setting('server_version_num')::integer >= 180000")
    assert read <= (51 + 500 if skips else 50_800), found


async def test_the_page_of_a_log_needs_no_index_but_the_primary_key(large: Database) -> None:
    """It comes in order, without a sort."""
    args, _ = STATEMENTS["events_page"]
    found = await analyzed(large, "events_page", *args)
    assert indexes(found) == {"run_events_pkey"}
    assert "Sort" not in {node.kind for node in found if node.rows_read > 500}


async def test_no_index_mentions_a_column_that_is_updated_per_event(database: Database) -> None:
    """Such an index would end HOT updates: each mark would write every index of the table."""
    rows = await fetch(
        database,
        """
        select index.indexrelid::regclass::text as name, attribute.attname as column
        from pg_index as index
        join pg_class as class on class.oid = index.indrelid
        join pg_attribute as attribute on attribute.attrelid = class.oid and (
            attribute.attnum = any(index.indkey)
            or pg_get_indexdef(index.indexrelid) ~ ('\\m' || attribute.attname || '\\M')
        )
        where class.relnamespace = $1::text::regnamespace and attribute.attnum > 0
        """,
        database.schema,
    )
    columns = {(row["name"].split(".")[-1], row["column"]) for row in rows}
    assert ("runs_leases", "lease_until") in columns
    assert ("runs_leases", "state") in columns
    never = {"published_at", "last_seq", "updated_at", "next_seq"}
    assert {(name, column) for name, column in columns if column in never} == set()


async def test_marking_and_appending_keep_updates_hot(database: Database) -> None:
    """3,000 events are marked and a run's row and cursor move per batch: the new versions fit on the old pages and
    no index is written."""
    await execute(
        database,
        """
        insert into tailrace.runs (id, agent, state, last_seq, epoch, started_at)
        select 'h' || n, 'a', 'started', 1, 1, now() from generate_series(1, 30) as n;
        insert into tailrace.run_outbox (run_id) select id from tailrace.runs;
        insert into tailrace.run_events (run_id, seq, ts, type, source)
        select id, 1, 1, 'RunStarted', 'api' from tailrace.runs;
        insert into tailrace.run_events (run_id, seq, ts, type, source, name, data)
        select id, seq, 1, 'Custom', 'worker', 'Progress', '{"done":1,"of":9}'
        from tailrace.runs, generate_series(2, 100) as seq;
        update tailrace.runs set last_seq = 100;
        alter table tailrace.run_events set (autovacuum_enabled = off);
        alter table tailrace.run_outbox set (autovacuum_enabled = off)
        """,
    )
    before = await updates(database)
    outbox = Outbox(database)
    for _ in range(10):
        async with outbox.transaction() as transaction:
            await transaction.advance(await transaction.take(None, [], runs_max=30, events_max=10))
    after = await updates(database)
    marked, marked_hot = (after["run_events"][n] - before["run_events"][n] for n in (0, 1))
    moved, moved_hot = (after["run_outbox"][n] - before["run_outbox"][n] for n in (0, 1))
    assert marked == 3000
    assert moved == 300
    # A mark makes a row eight bytes longer, so on a page that is half full a few find no room; with an index on
    # published_at none would be HOT, with fillfactor 100 one in seven.
    assert marked_hot >= 0.9 * marked
    # Thirty rows share one page, which is pruned when no snapshot in the database is older; with an index, none is HOT.
    assert moved_hot >= 0.5 * moved


async def updates(database: Database) -> dict[str, tuple[int, int]]:
    """Return, for each table, how many rows were updated and how many of those HOT."""
    async with database.connection() as connection:
        # Each session counts for itself and reports in its own time; all of this test's work is in the pool's one.
        await connection.execute("select pg_stat_force_next_flush()")
        rows = await connection.fetch(
            "select relname, n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where schemaname = $1", database.schema
        )
    return {row["relname"]: (row["n_tup_upd"], row["n_tup_hot_upd"]) for row in rows}
