"""Starts in common commits: what holds for one start holds for each of many that were sent together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
import pytest

from tailrace.errors import DatabaseUnavailable
from tailrace.model.run import RunRow
from tailrace.store.database import Database
from tailrace.store.runs import RunRequest, Runs
from tailrace.write import starter as module
from tailrace.write.starter import Starter
from tests.write_support import NOW_MS, execute, queued, until_waiting_for_a_lock, value, verified_log


def request(run_id: str, *, key: str | None = None, tenant: str = "default", agent: str = "a") -> RunRequest:
    return RunRequest(run_id, agent, '{"a":1.0}', NOW_MS, key, b"hash" if key is not None else None, tenant)


async def together(
    starter: Starter, requests: Sequence[RunRequest], *, flushes: int = 1
) -> list[RunRow | BaseException | None]:
    """Ask for all of them before the first statement, flush, and return the answers in order."""
    asked = [asyncio.ensure_future(starter.create(each)) for each in requests]
    await asyncio.sleep(0)
    for _ in range(flushes):
        assert await starter.flush_once()
    return await asyncio.gather(*asked, return_exceptions=True)


@pytest.fixture
def starter(runs: Runs) -> Starter:
    return Starter(runs, on_queued=lambda: None)


async def test_what_is_started_together_is_one_transaction(database: Database, runs: Runs, starter: Starter) -> None:
    """Fifty runs, fifty logs, one commit; each caller is given its own run as the database holds it."""
    answers = await together(starter, [request(f"r{number}") for number in range(50)])
    assert [answer.id for answer in answers if isinstance(answer, RunRow)] == [f"r{number}" for number in range(50)]
    assert await value(database, "select count(distinct xmin::text) from tailrace.runs") == 1
    for answer in answers:
        assert isinstance(answer, RunRow)
        assert answer == await runs.get(answer.id)
        assert [event.type for event in await verified_log(database, answer.id)] == ["RunStarted"]


async def test_a_taken_id_or_key_in_a_batch_is_told_to_its_caller_alone(
    database: Database, runs: Runs, starter: Starter
) -> None:
    """None for them, a run for the others, and the earlier runs as they were."""
    await queued(runs, run_id="taken")
    await runs.create(request("keyed", key="k"))
    wanted = [
        request("a"),
        request("taken"),
        request("b", key="k"),
        request("c", key="k", tenant="other"),
        request("d"),
    ]
    answers = await together(starter, wanted)
    assert [answer.id if isinstance(answer, RunRow) else answer for answer in answers] == ["a", None, None, "c", "d"]
    assert await value(database, "select count(*) from tailrace.runs") == 5


@pytest.mark.parametrize("key", [None, "k"])
async def test_two_that_want_the_same_go_one_after_the_other(starter: Starter, key: str | None) -> None:
    """The same id or the same key twice in one statement could not be told apart: the first gets it."""
    ids = ["r", "r", "r"] if key is None else ["r1", "r2", "r3"]
    answers = await together(starter, [request(run_id, key=key) for run_id in ids], flushes=3)
    assert [answer.id if isinstance(answer, RunRow) else answer for answer in answers] == [ids[0], None, None]


async def test_a_row_that_postgres_refuses_takes_no_other_down(database: Database, starter: Starter) -> None:
    """Its caller is told why; the others' runs are there."""
    await execute(database, "alter table tailrace.run_events add constraint never check (run_id <> 'bad') not valid")
    wanted = [request("a"), request("bad"), request("no id"), request("b"), request("\ud800")]
    first, bad, illegal, second, unencodable = await together(starter, wanted)
    assert isinstance(first, RunRow)
    assert isinstance(second, RunRow)
    assert "never" in str(bad)
    assert isinstance(illegal, asyncpg.CheckViolationError)
    assert illegal.constraint_name == "runs_id_is_legal"
    assert isinstance(unencodable, Exception)
    assert await value(database, "select array_agg(id order by id) from tailrace.runs") == ["a", "b"]


async def test_two_processes_that_want_each_others_keys_both_get_answers(
    database: Database, runs: Runs, starter: Starter
) -> None:
    """Sorted by key, statements wait for each other in one order, and none is the victim of a deadlock."""
    other = Starter(runs, on_queued=lambda: None)
    for turn in range(20):
        keys = [f"{turn}-{number}" for number in range(20)]
        ours = together(starter, [request(f"o{key}", key=key) for key in keys])
        theirs = together(other, [request(f"t{key}", key=key) for key in reversed(keys)])
        answers = [answer for part in await asyncio.gather(ours, theirs) for answer in part]
        assert sum(isinstance(answer, RunRow) for answer in answers) == 20
        assert sum(answer is None for answer in answers) == 20


async def test_a_batch_that_a_deadlock_ends_goes_one_by_one(database: Database, starter: Starter) -> None:
    """Another session holds one of its ids and wants another that it has written: somebody's statement is ended."""
    insert = "insert into {}.runs (id, agent) values ($1, 'x')".format(f'"{database.schema}"')
    async with database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("set local deadlock_timeout = '20s'")  # so that it is the other that is ended
        await connection.execute(insert, "b")
        asked = asyncio.ensure_future(together(starter, [request("a"), request("b"), request("c")]))
        await until_waiting_for_a_lock(database)
        await connection.execute(insert, "a")
        await transaction.commit()
    answers = await asked
    assert [answer.id if isinstance(answer, RunRow) else answer for answer in answers] == [None, None, "c"]


async def test_when_postgres_is_away_every_caller_is_told_and_the_next_batch_goes(
    database: Database, runs: Runs, starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with an error of its own, which says whether the statement was sent; nothing is sent again by itself."""
    original = Runs.create_many

    def away(*, sent: bool) -> Callable[..., Awaitable[dict[str, RunRow]]]:
        async def create_many(_: Runs, __: Sequence[RunRequest], **___: object) -> dict[str, RunRow]:
            error = DatabaseUnavailable("away")
            error.sent = sent
            raise error

        return create_many

    for sent in (False, True):
        monkeypatch.setattr(Runs, "create_many", away(sent=sent))
        answers = await together(starter, [request("a"), request("b")])
        assert len({id(answer) for answer in answers}) == 2
        for answer in answers:
            assert isinstance(answer, DatabaseUnavailable)
            assert answer.sent is sent
    monkeypatch.setattr(Runs, "create_many", original)
    assert [type(answer) for answer in await together(starter, [request("a"), request("b")])] == [RunRow, RunRow]


async def test_a_start_that_was_given_up_before_it_was_sent_is_not_sent(database: Database, starter: Starter) -> None:
    """The other callers of its batch get their runs; one given up in flight does not hurt them either."""
    gone = asyncio.ensure_future(starter.create(request("gone")))
    kept = asyncio.ensure_future(starter.create(request("kept")))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    assert await starter.flush_once()
    assert (await kept) is not None
    assert await value(database, "select array_agg(id) from tailrace.runs") == ["kept"]


async def test_a_process_that_stops_refuses_what_waits_and_what_comes(database: Database, starter: Starter) -> None:
    """Nobody waits for ever, and nothing was started; of a statement under way it is not known."""
    waiting = asyncio.ensure_future(starter.create(request("waiting")))
    await asyncio.sleep(0)
    starter.close()
    for refused in (waiting, starter.create(request("late"))):
        with pytest.raises(DatabaseUnavailable, match="was not started") as error:
            await refused
        assert not error.value.sent
    assert await value(database, "select count(*) from tailrace.runs") == 0


async def test_a_process_that_stops_in_the_midst_of_a_statement_says_that_it_does_not_know(
    database: Database, starter: Starter
) -> None:
    """The statement waits for a lock when the duty is cancelled."""
    async with database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(f'lock table "{database.schema}".runs in share mode')
        asked = asyncio.ensure_future(starter.create(request("r")))
        await asyncio.sleep(0)
        flushing = asyncio.ensure_future(starter.flush_once())
        await until_waiting_for_a_lock(database)
        flushing.cancel()
        with pytest.raises(DatabaseUnavailable) as error:
            await asked
        assert error.value.sent
        with pytest.raises(asyncio.CancelledError):
            await flushing
        await transaction.rollback()


async def test_batches_are_bounded(starter: Starter, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """By runs and by bytes of input; what is left waits for the next."""
    monkeypatch.setattr(module, "BATCH_MAX_RUNS", 3)
    answers = await together(starter, [request(f"r{number}") for number in range(7)], flushes=3)
    assert all(isinstance(answer, RunRow) for answer in answers)
    monkeypatch.setattr(module, "BATCH_MAX_BYTES", 10)
    answers = await together(starter, [request(f"s{number}") for number in range(4)], flushes=2)
    assert all(isinstance(answer, RunRow) for answer in answers)
    assert await value(database, "select count(distinct xmin::text) from tailrace.runs") == 5
