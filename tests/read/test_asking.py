"""Streams that attach at the same moment share what they ask the database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tailrace.errors import DatabaseUnavailable
from tailrace.read.asking import Asking
from tailrace.store.database import Database
from tailrace.store.events import Events, Tail
from tailrace.store.runs import Runs
from tests.patience import tried_again
from tests.write_support import queued


class Counting(Events):
    """Events that remember which runs were asked for together."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.asked: list[list[str]] = []
        self.in_flight = asyncio.Event()

    async def tails(self, run_ids: Sequence[str]) -> dict[str, Tail]:
        self.asked.append(list(run_ids))
        self.in_flight.set()
        return await super().tails(run_ids)


async def test_those_who_ask_together_share_a_statement_and_later_ones_the_next(database: Database, runs: Runs) -> None:
    """An answer is never older than its question: who asks while a statement is in flight waits for another."""
    ids = [await queued(runs) for _ in range(20)]
    events = Counting(database)
    asking = Asking(events)
    first = [asyncio.ensure_future(asking.tail(run_id)) for run_id in (*ids, ids[0], "unknown")]
    await events.in_flight.wait()
    later = asyncio.ensure_future(asking.tail(ids[0]))
    first[1].cancel()
    answers = await asyncio.gather(*first, later, return_exceptions=True)
    assert events.asked == [sorted([*ids, "unknown"]), [ids[0]]]
    assert isinstance(answers[1], asyncio.CancelledError)
    known = Tail(0, 1, ended=False)
    assert answers[:1] + answers[2:] == [known] * 20 + [None, known]


async def test_without_a_database_each_is_told_and_the_next_is_asked_again(database: Database, runs: Runs) -> None:
    """Each with an exception of its own, which its stream answers as trouble that passes."""
    run_id = await queued(runs)
    asking = Asking(Events(database))
    await database.close()
    told = await asyncio.gather(asking.tail(run_id), asking.tail(run_id), return_exceptions=True)
    assert [type(error) for error in told] == [DatabaseUnavailable] * 2
    assert told[0] is not told[1]
    await tried_again(database.open)
    assert await asking.tail(run_id) is not None
    with pytest.raises(RuntimeError):
        # What nobody foresaw is told to the one who asked, and is no end of the asking.
        await Asking(Broken(database)).tail(run_id)


class Broken(Events):
    """Events of which something is not as foreseen."""

    async def tails(self, run_ids: Sequence[str]) -> dict[str, Tail]:
        raise RuntimeError(run_ids)
