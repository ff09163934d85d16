"""Creating runs: all or nothing, once per idempotency key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tailrace.errors import IdempotencyConflict, RunExists, RunNotFound
from tailrace.model.run import RunState
from tailrace.store.database import Database
from tailrace.store.doorbell import Doorbell
from tailrace.store.runs import RunRequest, Runs
from tailrace.telemetry import Telemetry
from tailrace.write.orchestrate import Orchestrator, new_run_id
from tests.write_support import NOW_MS, execute, fetch, queued, starting, value, verified_log


async def test_a_run_its_first_event_and_its_outbox_row_are_one_transaction(database: Database, runs: Runs) -> None:
    """All three rows were made by the same transaction id."""
    run_id = await queued(runs, input_text='{"a": 1.0}')
    rows = await fetch(
        database,
        """
        select runs.xmin::text as run, events.xmin::text as event, outbox.xmin::text as outbox, events.source, events.ts
        from tailrace.runs join tailrace.run_events as events on events.run_id = runs.id
        join tailrace.run_outbox as outbox on outbox.run_id = runs.id
        """,
    )
    assert [(row["source"], row["ts"]) for row in rows] == [("api", NOW_MS)]
    assert len({rows[0]["run"], rows[0]["event"], rows[0]["outbox"]}) == 1
    (event,) = await verified_log(database, run_id)
    assert event.type == "RunStarted"
    run = await runs.get(run_id)
    assert (run.state, run.last_seq, run.next_seq, run.backlog) == (RunState.QUEUED, 1, 1, 1)
    assert run.input == '{"a": 1.0}'


@pytest.mark.parametrize("table", ["run_events", "run_outbox"])
async def test_a_run_whose_other_rows_cannot_be_written_is_not_made(database: Database, runs: Runs, table: str) -> None:
    """When one of the three fails, none is there."""
    await execute(database, f"alter table tailrace.{table} add constraint never check (run_id <> 'r') not valid")
    with pytest.raises(Exception, match="never"):
        await queued(runs, run_id="r")
    with pytest.raises(RunNotFound):
        await runs.get("r")
    for other in ("runs", "run_events", "run_outbox"):
        assert await value(database, f"select count(*) from tailrace.{other}") == 0


async def test_a_taken_id_is_refused_and_changes_nothing(database: Database, runs: Runs) -> None:
    """Neither the run nor its log."""
    run_id = await queued(runs, input_text='"first"')
    with pytest.raises(RunExists, match=run_id):
        await runs.create(RunRequest(run_id, "other", '"second"', NOW_MS + 1))
    run = await runs.get(run_id)
    assert (run.agent, run.input) == ("agent", '"first"')
    assert len(await verified_log(database, run_id)) == 1


async def test_of_twenty_that_create_the_same_id_one_does(database: Database, runs: Runs) -> None:
    """The others are told that it exists."""
    outcomes = await asyncio.gather(
        *(runs.create(RunRequest("same", f"agent{number}", None, NOW_MS)) for number in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, RunExists) for outcome in outcomes) == 19
    assert len(await verified_log(database, "same")) == 1


@pytest.fixture
async def orchestrator(database: Database, runs: Runs, telemetry: Telemetry) -> AsyncIterator[Orchestrator]:
    async with starting(
        Orchestrator(runs, Doorbell(database, telemetry), telemetry, on_committed=lambda _: None), telemetry
    ) as made:
        yield made


async def test_the_same_key_and_request_give_the_same_run(database: Database, orchestrator: Orchestrator) -> None:
    """Whatever the order of the keys in its input."""
    first, is_new = await orchestrator.start("a", {"x": 1, "y": [2]}, idempotency_key="k")
    again, is_new_again = await orchestrator.start("a", {"y": [2], "x": 1}, idempotency_key="k")
    assert (is_new, is_new_again) == (True, False)
    assert again.id == first.id
    assert await value(database, "select count(*) from tailrace.runs") == 1


@pytest.mark.parametrize(
    ("agent", "given", "run_id"),
    [
        ("b", 1, None), ("a", 2, None), ("a", None, None), ("a", 1.0, None), ("a", "1", None), ("a", 1, "named"),
        ("a", True, None),
    ],
)  # fmt: skip
async def test_the_same_key_with_another_request_is_refused(
    database: Database, orchestrator: Orchestrator, agent: str, given: object, run_id: str | None
) -> None:
    """Agent, input and run id are the request; 1, 1.0, true and "1" are not the same input."""
    await orchestrator.start("a", 1, idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        await orchestrator.start(agent, given, run_id=run_id, idempotency_key="k")
    assert await value(database, "select count(*) from tailrace.runs") == 1


async def test_a_new_key_with_a_taken_id_is_refused_and_the_key_stays_free(orchestrator: Orchestrator) -> None:
    """A request that failed has not used its key up."""
    await orchestrator.start("a", 1, run_id="r")
    with pytest.raises(RunExists):
        await orchestrator.start("a", 1, run_id="r", idempotency_key="k")
    run, is_new = await orchestrator.start("a", 2, run_id="r2", idempotency_key="k")
    assert (run.id, is_new) == ("r2", True)


async def test_twenty_requests_with_one_key_at_once_make_one_run(
    database: Database, orchestrator: Orchestrator
) -> None:
    """All twenty are answered with it, and one of them made it."""
    answers = await asyncio.gather(*(orchestrator.start("a", {"n": 1}, idempotency_key="k") for _ in range(20)))
    assert len({run.id for run, _ in answers}) == 1
    assert sorted(is_new for _, is_new in answers) == [False] * 19 + [True]
    assert await value(database, "select count(*) from tailrace.runs") == 1
    await verified_log(database, answers[0][0].id)


async def test_twenty_different_requests_with_one_key_at_once_make_one_run(
    database: Database, orchestrator: Orchestrator
) -> None:
    """The nineteen others are refused, none is taken for another."""
    answers = await asyncio.gather(
        *(orchestrator.start("a", number, idempotency_key="k") for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(answer, IdempotencyConflict) for answer in answers) == 19
    assert await value(database, "select count(*) from tailrace.runs") == 1


@pytest.mark.parametrize("run_id", ["", "no\x00", "\ud800", "-x", "unknown"])
async def test_a_run_that_does_not_exist_is_not_found_whatever_its_id(runs: Runs, run_id: str) -> None:
    """Also for ids that Postgres could not even be asked about."""
    with pytest.raises(RunNotFound):
        await runs.get(run_id)
    with pytest.raises(RunNotFound):
        await runs.cancel(run_id, NOW_MS)


async def test_input_is_kept_as_it_was_written(database: Database, runs: Runs) -> None:
    """json, not jsonb: order, duplicates and the spelling of numbers survive."""
    text = '{"b":1.0,"a":100000000000000000000.5,"b":1e2}'
    assert (await runs.get(await queued(runs, input_text=text))).input == text


def test_new_run_ids_are_legal_different_and_sort_by_time() -> None:
    """48 bits of time, 80 random ones."""
    ids = [new_run_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [made[:12] for made in ids] == sorted(made[:12] for made in ids)
    assert {len(made) for made in ids} == {32}
