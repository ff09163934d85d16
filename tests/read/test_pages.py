"""Pages of frames: what Postgres builds is what `frame` makes, and a page is bounded whatever is in the log."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailrace.model import strictjson
from tailrace.model.event import StoredEvent
from tailrace.read import pages
from tailrace.read.channel import Channel
from tailrace.read.frame import Chunk, frame, is_terminal, joined, written_out
from tailrace.read.pages import OUTLIER, PAGE_MAX_BYTES, PAGES_AT_ONCE, Page, backfill
from tailrace.store.database import POOL_MAX, Database
from tailrace.store.events import Events, Frames
from tailrace.store.queries import in_schema, query
from tests.patience import PATIENCE_MS, tried_again
from tests.read_support import DeafBus, HandWrittenRun, HookedEvents, custom, execute, publish_all

# All of Unicode but what Postgres cannot hold; control characters, separators and quotes more often than by chance.
_character = st.one_of(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"),
    st.sampled_from("\"\\/\b\f\n\r\t\x01\x1b\x1f\x7f\x80\x85\u2028\u2029\ufeff\uffff😀\U0010ffff<&'"),
)
_text = st.text(_character, min_size=1, max_size=30)
# Often the same one, as in a log: what a page's first event shares with later ones is written once.
_name = st.sampled_from(["Progress", "\x01\x02\x03", '",data":{']) | _text
_value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)
_data = st.none() | st.dictionaries(_text, _value, max_size=3).map(strictjson.dump)
_ts = st.integers(0, 2**63 - 1)
_event = st.one_of(
    st.tuples(_ts, st.just("Custom"), _name, st.none(), _data),
    st.tuples(_ts, st.sampled_from(["NodeStarted", "NodeFinished"]), _name, st.none(), st.none()),
    st.tuples(_ts, st.just("DebugTrace"), st.none(), _text, st.none()),
    st.tuples(_ts, st.just("RunFailed"), st.none(), _text, _data),
    st.tuples(_ts, st.sampled_from(["RunFinished", "RunCancelled"]), st.none(), st.none(), st.none()),
)
# Of a page, so that one example has several.
PART = 5
INSERT = """
insert into tailrace.run_events (run_id, seq, ts, type, source, name, fn, data)
select 'r:1._-', row.seq, row.ts, row.type, 'worker', row.name, row.fn, row.data::json
from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[])
    as row (seq, ts, type, name, fn, data)
"""


def test_frames_built_by_postgres_are_those_of_the_encoder_byte_for_byte(tailrace_database: str) -> None:
    """Names, functions and data of every kind: control characters, separators, quotes, anything beyond the BMP."""
    with asyncio.Runner() as runner:
        database = Database(tailrace_database, schema="tailrace", tx_timeout_ms=PATIENCE_MS)
        runner.run(tried_again(database.open))

        @settings(
            max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
        )
        @given(rows=st.lists(_event, min_size=1, max_size=20))
        def same(rows: list[tuple[int, str, str | None, str | None, str | None]]) -> None:
            # One terminal event a run, and it is the last.
            rows = [row for row in rows if not row[1].startswith("Run")] + [row for row in rows if "Run" in row[1]][:1]
            events = [StoredEvent("r:1._-", seq, *row) for seq, row in enumerate(rows, 2)]
            found = runner.run(_built(database, events))
            frames = [frame(event) for event in events]
            parts = [frames[start : start + PART] for start in range(0, len(frames), PART)]
            assert found == [(b"".join(each.text for each in part), len(part)) for part in parts]
            for each in frames:
                assert is_terminal(each.text) is each.terminal

        try:
            same()
        finally:
            runner.run(database.close())


async def _built(database: Database, events: list[StoredEvent]) -> list[tuple[bytes, int]]:
    """Return the frames of rows that are gone again afterwards, and how many they are, part by part."""
    async with database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            columns = zip(*((each.seq, *each[2:]) for each in events), strict=True)
            await connection.execute(in_schema(INSERT, database.schema), *columns)
            found = await connection.fetch(
                query("events_frames", database.schema), "r:1._-", 1, len(events) + 1, PART, 1 << 30
            )
            return [
                (written_out(row["text"], "r:1._-", row["kind"] or b""), row["events"])
                for row in found
                if row["events"]
            ]
        finally:
            await transaction.rollback()


async def _backfilled(events: Events, run_id: str, position: int, head: int) -> list[Chunk]:
    channel = Channel(run_id)
    channel.learn(head)
    async with aclosing(backfill(channel, events, position, gate=asyncio.Semaphore(PAGES_AT_ONCE))) as found:
        return [chunk async for chunk in found]


async def _expected(events: Events, run_id: str, after: int, upto: int) -> bytes:
    rows = await events.page(run_id, after=after, upto=upto, limit=1_000_000, max_bytes=1 << 40)
    return b"".join(frame(event).text for event in rows)


async def test_a_long_log_comes_whole_and_in_order_from_any_position(database: Database, events: Events) -> None:
    """Over many pages, with the next ones on their way: the same bytes as row by row."""
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(7000)
    last = await run.finish()
    await publish_all(database, DeafBus())
    for position in (0, 1, 99, 100, 101, 6999, last - 1):
        found = await _backfilled(events, "r", position, last)
        assert b"".join(chunk.text for chunk in found) == await _expected(events, "r", position, last)
        assert [chunk.terminal for chunk in found] == [False] * (len(found) - 1) + [True]
        assert found[-1].last_seq == last


@pytest.mark.parametrize("size", [100, 12_000, 30_000, 60_000])
async def test_a_terminal_event_is_seen_as_one_wherever_a_part_ends(
    database: Database, events: Events, size: int
) -> None:
    """Beside others in its part, or alone in it, as behind events so large that a part has one of them."""
    run = await HandWrittenRun.start(database, "r")
    for count in range(24):
        await run.append(custom({"text": "x" * size, "count": count}))
    last = await run.finish()
    await publish_all(database, DeafBus())
    for position in range(last):
        found = await _backfilled(events, "r", position, last)
        assert b"".join(chunk.text for chunk in found) == await _expected(events, "r", position, last)
        assert [chunk.terminal for chunk in found] == [False] * (len(found) - 1) + [True]


async def test_pages_stay_bounded_when_large_events_follow_small_ones(database: Database) -> None:
    """A page is planned by the events before it; large ones after small ones must not all come at once."""
    events = HookedEvents(database)
    run = await HandWrittenRun.start(database, "r")
    for _ in range(3):
        await run.append_many(3000)
        for _ in range(8):
            await run.append(*(custom({"text": "x" * 60_000}) for _ in range(10)))
    last = await run.finish()
    await publish_all(database, DeafBus())
    found = await _backfilled(events, "r", 0, last)
    assert b"".join(chunk.text for chunk in found) == await _expected(events, "r", 0, last)
    assert max(len(chunk.text) for chunk in found) < (OUTLIER + 1) * PAGE_MAX_BYTES


@pytest.mark.parametrize("gone", [2, 150, 4000])
async def test_a_row_that_is_gone_ends_the_backfill_in_front_of_it(
    database: Database, events: Events, gone: int
) -> None:
    """In the first page, behind it, and far behind it, where pages are on their way already."""
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(5000)
    await publish_all(database, DeafBus())
    await execute(database, f"delete from tailrace.run_events where seq = {gone}")
    found = await _backfilled(events, "r", 0, run.last_seq)
    assert sum(chunk.text.count(b"\nid: ") for chunk in found) + len(found) == gone - 1
    assert [chunk.last_seq for chunk in found][-1:] == [gone - 1]


async def test_rows_written_by_hand_with_line_breaks_do_not_break_a_page(database: Database, events: Events) -> None:
    """Postgres keeps JSON as it was written; on the wire it is one line."""
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(3000)
    for seq, gap in ((2, "\n"), (500, "\r"), (501, "\r\n"), (2500, "\n\n ")):
        await execute(
            database,
            "update tailrace.run_events set data = (E'{\"a\":' || $1::text || '1}')::json where seq = $2",
            gap,
            seq,
        )
    await publish_all(database, DeafBus())
    text = b"".join(chunk.text for chunk in await _backfilled(events, "r", 0, run.last_seq))
    assert text == await _expected(events, "r", 0, run.last_seq)
    assert b"\r" not in text
    assert text.count(b"\n") == 3 * run.last_seq


async def test_an_abandoned_backfill_leaves_no_statement_behind(database: Database, events: Events) -> None:
    """The client is gone in the midst of it: the pages on their way are dropped, and the connections are free."""
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(6000)
    await publish_all(database, DeafBus())
    channel = Channel("r")
    channel.learn(run.last_seq)
    gate = asyncio.Semaphore(PAGES_AT_ONCE)
    before = asyncio.all_tasks()
    async with aclosing(backfill(channel, events, 0, gate=gate)) as found:
        await anext(found)
        await anext(found)
        assert asyncio.all_tasks() > before
    assert asyncio.all_tasks() == before
    for _ in range(PAGES_AT_ONCE):
        assert not gate.locked()
        await gate.acquire()


async def test_a_reader_that_goes_while_a_page_ahead_is_being_dropped_is_gone() -> None:
    """Its cancellation is not taken for that of the page."""
    dropped = asyncio.Event()

    async def page_ahead() -> Page:
        try:
            return await asyncio.Future()
        except asyncio.CancelledError:
            dropped.set()
            return await asyncio.Future()  # as a driver that waits until Postgres has let a statement go

    ahead = asyncio.create_task(page_ahead())
    await asyncio.sleep(0)
    reading = asyncio.create_task(pages._drop(deque([ahead])))
    await dropped.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert ahead.cancelled()


def test_a_chunk_is_bounded_and_has_one_frame_at_least() -> None:
    """By frames and by bytes; one larger frame is a chunk of its own."""
    small = [frame(StoredEvent("r", seq, 1, "Custom", "n", None, None)) for seq in range(1, 1001)]
    large = frame(StoredEvent("r", 1001, 1, "Custom", "n", None, '{"a":"' + "x" * 100_000 + '"}'))
    assert joined(small).last_seq == 512
    assert joined([large, *small]) == Chunk(large.text, 1001, terminal=False)
    assert joined([*small[:3], large]).last_seq == 3


class CountedEvents(Events):
    """Reads as ``Events`` does, and counts how many statements are under way at the same time."""

    under_way = most = 0

    async def page(self, run_id: str, *, after: int, upto: int, limit: int, max_bytes: int) -> list[StoredEvent]:
        with self._counted():
            return await super().page(run_id, after=after, upto=upto, limit=limit, max_bytes=max_bytes)

    async def frames(self, run_id: str, *, after: int, upto: int, part: int, event_max_bytes: int) -> Sequence[Frames]:
        with self._counted():
            return await super().frames(run_id, after=after, upto=upto, part=part, event_max_bytes=event_max_bytes)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            yield
        finally:
            self.under_way -= 1


async def test_fifty_backfills_at_once_leave_most_connections_to_the_others(database: Database) -> None:
    """As after a restart of what stands between: all of them are served, by a quarter of the connections at most."""
    events = CountedEvents(database)
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(5000)
    last = await run.finish()
    await publish_all(database, DeafBus())
    channel = Channel("r")
    channel.learn(last)
    gate = asyncio.Semaphore(PAGES_AT_ONCE)

    async def size_of_one() -> int:
        async with aclosing(backfill(channel, events, 0, gate=gate)) as found:
            return sum([len(chunk.text) async for chunk in found])

    sizes = await asyncio.gather(*(size_of_one() for _ in range(50)))
    assert set(sizes) == {len(await _expected(events, "r", 0, last))}
    assert events.most == PAGES_AT_ONCE
    assert 4 * PAGES_AT_ONCE <= POOL_MAX
    assert events.under_way == 0


async def test_rows_that_lie_elsewhere_are_read_in_larger_pages_without_asking_for_frames(database: Database) -> None:
    """As those of an archived run, which Postgres has no frames of: it is asked once, and not for every page."""

    class Elsewhere(CountedEvents):
        asked = pages = 0

        async def frames(
            self, run_id: str, *, after: int, upto: int, part: int, event_max_bytes: int
        ) -> Sequence[Frames]:
            self.asked += 1
            found = await super().frames(run_id, after=after, upto=upto, part=part, event_max_bytes=event_max_bytes)
            return [Frames(b"", 0) for _ in found]

        async def page(self, run_id: str, *, after: int, upto: int, limit: int, max_bytes: int) -> list[StoredEvent]:
            self.pages += 1
            return await super().page(run_id, after=after, upto=upto, limit=limit, max_bytes=max_bytes)

    events = Elsewhere(database)
    run = await HandWrittenRun.start(database, "r")
    await run.append_many(6000)
    last = await run.finish()
    await publish_all(database, DeafBus())
    text = b"".join(chunk.text for chunk in await _backfilled(events, "r", 0, last))
    assert events.asked <= 1 + pages.PAGES_AHEAD
    assert events.pages <= 2 + 6000 // pages.ROWS_MAX_EVENTS
    assert text == await _expected(events, "r", 0, last)
