"""The crowd: one position, one copy of the bytes, and nobody waits for anybody."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Hashable

import pytest

from tailrace.bus.bus import Published
from tailrace.read.channel import Channel
from tailrace.read.crowd import FEW, GATHER_MAX_EVENTS, REST_MAX_SECONDS, SQUAD_MAX, Crowd, Squad, rest_seconds
from tailrace.read.frame import CHUNK_MAX_FRAMES
from tests.patience import PATIENCE_SECONDS
from tests.read_support import event


class Seat:
    """A connection as a crowd sees it; ``takes`` is how many writes it takes before it is full."""

    def __init__(self, crowd: Crowd, *, takes: int = 1 << 30, principal: Hashable = "p") -> None:
        self.squad: Squad | None = None
        self.principal = principal
        self.written: list[bytes] = []
        self.left_at: int | None = None
        self.ended: str | None = None
        self._crowd = crowd
        self._takes = takes

    @property
    def write(self) -> Callable[[bytes], None]:
        return self._write

    def _write(self, text: bytes) -> None:
        assert self.squad is not None, "written to after it left"
        self.written.append(text)
        if len(self.written) == self._takes:
            self.left_at = self._crowd.leave(self)

    def fall_behind(self) -> None:
        self.left_at = self._crowd.leave(self)

    def end(self, reason: str) -> None:
        if self.squad is not None:
            self.left_at = self._crowd.leave(self)
        self.ended = reason

    @property
    def seqs(self) -> list[int]:
        return [int(seq) for seq in re.findall(rb"^id: (\d+)$", b"".join(self.written), re.MULTILINE)]


class Room:
    """A channel and its crowd, at the beginning of a run; ``revoked`` are those whose key no longer counts."""

    def __init__(self, *, ring_max_frames: int = 1000) -> None:
        self.channel = Channel("r", ring_max_frames=ring_max_frames)
        self.channel.learn(0)
        self.revoked: set[Hashable] = set()
        self.crowd = Crowd(self.channel, lambda principal: principal not in self.revoked)

    def seat(self, position: int = 0, **how: object) -> Seat:
        made = Seat(self.crowd, **how)  # type: ignore[arg-type]
        due = self.crowd.join(made, position)
        assert due is not None
        if due.text:
            made.written.append(due.text)
        return made

    def publish(self, count: int, *, type: str = "Custom") -> int:  # noqa: A002 - the column's name
        first = self.channel.head + 1
        events = [event("r", seq) for seq in range(first, first + count)]
        events[-1] = events[-1]._replace(type=type)
        news = Published("r", events[-1].seq, events)
        if self.channel.offer(news.last_seq, news.events):
            self.crowd.news()
        return news.last_seq

    async def settled(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while any(squad.position < self.channel.head for squad in self.crowd.squads):  # noqa: ASYNC110 - as it is
                await asyncio.sleep(0.001)


@pytest.fixture
async def room() -> Room:
    return Room()


async def test_few_have_news_in_the_call_that_brings_it(room: Room) -> None:
    """No task, no turn of the loop between the publisher and the writes, and all are given the same bytes."""
    seats = [room.seat() for _ in range(FEW)]
    room.publish(1)
    room.publish(3)
    for seat in seats:
        assert seat.seqs == [1, 2, 3, 4]
        assert len(seat.written) == 2
        assert all(mine is first for mine, first in zip(seat.written, seats[0].written, strict=True))
    assert seats[0].written[0].startswith(b"%x\r\n" % (len(seats[0].written[0]) - 6))


async def test_many_have_it_gathered_and_not_in_the_publishers_call(room: Room) -> None:
    """One write a round and client, however many events came meanwhile; the publisher has rows locked."""
    seats = [room.seat() for _ in range(SQUAD_MAX + 50)]
    assert [len(squad.members) for squad in room.crowd.squads] == [SQUAD_MAX, 50]
    for _ in range(10):
        room.publish(2)
    assert not any(seat.written for seat in seats)
    await room.settled()
    for seat in seats:
        assert seat.seqs == list(range(1, 21))
        assert len(seat.written) == 1
        assert seat.written[0] is seats[0].written[0]


async def test_squads_take_turns_with_the_rest_of_the_loop(room: Room) -> None:
    """What is due in between happens in between: a large crowd must not hold up other runs."""
    for _ in range(3 * SQUAD_MAX):
        room.seat()
    positions: list[list[int]] = []
    room.publish(1)

    def look() -> None:
        positions.append(sorted(squad.position for squad in room.crowd.squads))
        if positions[-1] != [1, 1, 1]:
            asyncio.get_running_loop().call_soon(look)

    look()
    await room.settled()
    assert [0, 0, 1] in positions
    assert [0, 1, 1] in positions


async def test_news_that_comes_faster_than_the_tick_does_not_leave_the_ring(room: Room) -> None:
    """Beyond a bound it goes out at once, before the ring could drop it."""
    seats = [room.seat() for _ in range(FEW + 1)]
    for _ in range(20):
        room.publish(GATHER_MAX_EVENTS)
    await room.settled()
    for seat in seats:
        assert seat.left_at is None
        assert seat.seqs == list(range(1, 20 * GATHER_MAX_EVENTS + 1))


@pytest.mark.parametrize("members", [3, FEW + 8])
async def test_who_is_full_leaves_with_the_position_it_has_reached(room: Room, members: int) -> None:
    """It was given the write that filled it, and nothing after; the others go on."""
    full = [room.seat(takes=takes) for takes in (1, 2)]
    others = [room.seat() for _ in range(members)]
    for _ in range(4):
        room.publish(2)
        await room.settled()
    for seat, last in zip(full, (2, 4), strict=True):
        assert seat.left_at == last
        assert seat.seqs == list(range(1, last + 1))
    assert all(seat.seqs == list(range(1, 9)) for seat in others)
    assert room.crowd.size == members


async def test_who_joins_is_brought_to_where_the_crowd_is_and_no_further(room: Room) -> None:
    """While news is gathered the crowd is behind the ring; what a newcomer gets with the next round it gets once."""
    for _ in range(FEW + 1):
        room.seat()
    room.publish(5)
    await room.settled()
    room.publish(3)
    behind, level, ahead = room.seat(2), room.seat(5), room.seat(7)
    await room.settled()
    assert behind.seqs == list(range(3, 9))
    assert level.seqs == [6, 7, 8]
    assert ahead.seqs == [8]


async def test_who_cannot_be_brought_there_by_one_chunk_does_not_join(room: Room) -> None:
    """Left of the ring, a chunk away or more, or ahead of all that is published."""
    tiny = Room(ring_max_frames=2)
    tiny.publish(20)
    assert tiny.crowd.join(Seat(tiny.crowd), 3) is None
    assert tiny.crowd.join(Seat(tiny.crowd), 21) is None
    room.publish(CHUNK_MAX_FRAMES + 1)
    assert room.crowd.join(Seat(room.crowd), 0) is None
    assert room.seat(1).seqs == list(range(2, CHUNK_MAX_FRAMES + 2))
    assert (tiny.crowd.size, room.crowd.size) == (0, 1)


async def test_a_crowd_whose_position_left_the_ring_falls_behind() -> None:
    """One batch larger than the ring: each is told where it stands, and the database serves it from there."""
    tiny = Room(ring_max_frames=2)
    seats = [tiny.seat() for _ in range(3)]
    tiny.publish(1)
    tiny.publish(50)
    assert [(seat.left_at, seat.seqs) for seat in seats] == [(1, [1])] * 3
    assert tiny.crowd.squads == []


async def test_the_terminal_event_ends_every_stream_after_it_is_written(room: Room) -> None:
    """In a crowd of any size."""
    seats = [room.seat() for _ in range(FEW + 1)]
    room.publish(2)
    room.publish(1, type="RunFinished")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while room.crowd.size:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)
    assert all((seat.seqs, seat.ended, seat.left_at) == ([1, 2, 3], "terminal", 3) for seat in seats)


async def test_a_closed_channel_ends_every_stream_at_once(room: Room) -> None:
    """The process is to stop, or the run was removed."""
    seats = [room.seat() for _ in range(FEW + 1)]
    room.channel.closed = True
    room.crowd.news()
    assert {seat.ended for seat in seats} == {"shutdown"}
    assert room.crowd.squads == []


async def test_a_revoked_key_gets_nothing_more(room: Room) -> None:
    """Before the write, not after it; the others of the same run are not touched."""
    one, other = room.seat(principal="a"), room.seat(principal="b")
    room.publish(1)
    room.revoked.add("a")
    room.publish(1)
    assert (one.seqs, one.ended, one.left_at) == ([1], "revoked", 1)
    assert (other.seqs, other.ended) == ([1, 2], None)


def test_the_rest_grows_with_what_a_round_told_and_took_up_to_its_bounds() -> None:
    """None after a round of one event, so that news at a pace that the crowd can keep is never held back."""
    assert rest_seconds(0.01, 1) == 0
    by_events = [rest_seconds(0.01, events) for events in (1, 2, 3, 300)]
    assert by_events == sorted(by_events)
    assert by_events[-1] == 0.01
    assert rest_seconds(10.0, 300) == REST_MAX_SECONDS


async def test_a_crowd_at_rest_is_told_at_once_and_a_busy_one_in_fewer_rounds(room: Room) -> None:
    """What comes while a round goes on is told in the next one, all of it together."""
    seats = [room.seat() for _ in range(SQUAD_MAX + FEW)]
    room.publish(1)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not any(seat.written for seat in seats):  # noqa: ASYNC110 - the first squad's turn has no event
            await asyncio.sleep(0)
    room.publish(1)
    room.publish(1)
    last = room.publish(1)
    await room.settled()
    assert all(seat.seqs == list(range(1, last + 1)) for seat in seats)
    assert max(len(seat.written) for seat in seats) == 2


@pytest.mark.parametrize("count", [1, FEW + 5])
async def test_who_is_full_with_the_terminal_event_is_ended_too(room: Room, count: int) -> None:
    """It has left by then, is owed nothing, and would wait for ever for what cannot come."""
    full = [room.seat(takes=1) for _ in range(count)]
    others = [room.seat() for _ in range(count)]
    last = room.publish(3, type="RunFinished")
    await room.settled()
    for seat in (*full, *others):
        assert seat.seqs == list(range(1, last + 1))
        assert (seat.left_at, seat.ended) == (last, "terminal")
    assert room.crowd.size == 0
