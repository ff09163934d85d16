"""A start whose answer was lost: committed or not, no run is started twice, and nobody is told what is not known."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tailrace.errors import DatabaseUnavailable, OutcomeUnknown, RunExists
from tailrace.store.database import Database
from tailrace.store.doorbell import Doorbell
from tailrace.store.runs import Runs
from tailrace.telemetry import RunCreated, Telemetry
from tailrace.write.orchestrate import Orchestrator
from tests.outage_support import Line
from tests.patience import opened
from tests.write_support import Told, starting, value, verified_log


@pytest.fixture
async def line(database: Database) -> AsyncIterator[Line]:
    async with Line(database.url).running() as made:
        yield made


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def orchestrator(database: Database, line: Line, told: Told) -> AsyncIterator[Orchestrator]:
    """It reaches Postgres over the line; its connection has created a run before."""
    telemetry = Telemetry([told])
    async with opened(Database(line.url, schema=database.schema, tx_timeout_ms=3000)) as there:
        made = Orchestrator(Runs(there), Doorbell(there, telemetry), telemetry, on_committed=lambda _: None)
        async with starting(made, telemetry):
            for key in (None, "first"):
                await made.start("a", idempotency_key=key, input_value=None)
            yield made
        line.mend()


async def count(database: Database) -> int:
    """How many runs there are beside those of the fixture."""
    found: int = await value(database, "select count(*) - 2 from tailrace.runs")
    return found


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_start_whose_answer_is_lost_finds_its_own_run(
    database: Database, orchestrator: Orchestrator, line: Line, told: Told, key: str | None
) -> None:
    """The run was committed; the second try meets it, and the caller is told of a new run, as it is."""
    line.lose_answers(1)
    run, is_new = await orchestrator.start("a", 1, idempotency_key=key)
    assert is_new
    assert len(told.of(RunCreated, run_id=run.id)) == 1
    assert await count(database) == 1
    await verified_log(database, run.id)


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_start_that_cannot_find_out_says_so_and_names_the_run(
    database: Database, orchestrator: Orchestrator, line: Line, key: str | None
) -> None:
    """Repeated with its key it is the run of the first time; without one, the caller can look."""
    line.lose_answers(2)
    with pytest.raises(OutcomeUnknown) as unknown:
        await orchestrator.start("a", 1, idempotency_key=key)
    assert await count(database) == 1
    run_id = await value(database, "select id from tailrace.runs order by created_at desc limit 1")
    assert run_id in str(unknown.value)
    if key is not None:
        run, is_new = await orchestrator.start("a", 1, idempotency_key=key)
        assert (run.id, is_new) == (run_id, False)
        assert await count(database) == 1


async def test_a_start_that_found_its_run_but_cannot_show_it_is_not_called_undone(
    database: Database, orchestrator: Orchestrator, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second try met the run of the first; then Postgres goes away for good."""

    async def away(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("away")

    line.lose_answers(1)
    monkeypatch.setattr(Runs, "get", away)
    with pytest.raises(OutcomeUnknown):
        await orchestrator.start("a", 1)
    assert await count(database) == 1


async def test_a_chosen_id_without_a_key_is_not_tried_again(
    database: Database, orchestrator: Orchestrator, line: Line
) -> None:
    """If the id is taken, it may be by anybody: the caller is told that it is not known, then that the run exists."""
    line.lose_answers(1)
    with pytest.raises(OutcomeUnknown, match="chosen"):
        await orchestrator.start("a", 1, run_id="chosen")
    with pytest.raises(RunExists):
        await orchestrator.start("a", 1, run_id="chosen")
    assert await count(database) == 1


async def test_a_start_that_was_never_sent_is_not_called_unknown(
    database: Database, orchestrator: Orchestrator, line: Line
) -> None:
    """Postgres could not even be asked: nothing was started, and it may safely be repeated."""
    line.cut()
    with pytest.raises(DatabaseUnavailable):  # by which the connection that was open is known to be gone
        await orchestrator.cancel("r")
    with pytest.raises(DatabaseUnavailable) as refused:
        await orchestrator.start("a", 1)
    assert not isinstance(refused.value, OutcomeUnknown)
    assert await count(database) == 0


async def test_a_start_that_postgres_refuses_is_not_called_unknown(
    database: Database, orchestrator: Orchestrator
) -> None:
    """An error that Postgres itself sends means that the statement has not happened."""
    runs = f'"{database.schema}".runs'
    async with database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(f"lock table {runs} in share mode; set local idle_in_transaction_session_timeout = 0")
        with pytest.raises(DatabaseUnavailable) as refused:
            await orchestrator.start("a", 1)
        await transaction.rollback()
    assert not isinstance(refused.value, OutcomeUnknown)
    assert await count(database) == 0
