"""The channel against a bus that loses, repeats and reorders."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tailrace.read.channel import Channel
from tailrace.read.frame import Frame
from tests.read_support import event

LAST = 40

# One thing that happens to a channel.  `bus` brings a stretch of events, `bell` the news alone, `learn` what a tail
# query found; `fill` is what the hub reads for what is missing, at most so many events; `watch` lets a watcher look.
_seq = st.integers(1, LAST)
_happening = st.one_of(
    st.tuples(st.just("bus"), _seq, st.integers(0, 12)),
    st.tuples(st.just("bell"), _seq, st.just(0)),
    st.tuples(st.just("learn"), st.integers(0, LAST), st.just(0)),
    st.tuples(st.just("fill"), st.integers(1, 7), st.just(0)),
    st.tuples(st.just("watch"), st.integers(0, 4), st.just(0)),
)


class Watcher:
    """A position, what it was given, and how often the database had to serve it."""

    def __init__(self, position: int) -> None:
        self.began = self.position = position
        self.seen: list[int] = []
        self.pages = 0

    def look(self, channel: Channel) -> bool:
        """Take what the channel has, as `follow` does; return whether there was anything."""
        frames = channel.after(self.position)
        if frames is None:
            self.pages += 1
            assert self.position < channel.head, "the database was named for what is not published"
            frames = _page(self.position, channel.head, limit=3)
        for each in frames:
            assert each.seq == self.position + 1, f"{each.seq} came after {self.position}"
            assert each.seq <= channel.head, f"{each.seq} is past what is known as published, {channel.head}"
            self.position = each.seq
            self.seen.append(each.seq)
        return bool(frames)


def _page(after: int, upto: int, *, limit: int) -> Sequence[Frame]:
    return [Frame(seq, False, b"") for seq in range(after + 1, min(upto, after + limit) + 1)]


def apply(channel: Channel, kind: str, number: int, length: int) -> None:
    match kind:
        case "bus":
            last = min(LAST, number + length)
            channel.offer(last, [event("r", seq) for seq in range(number, last + 1)])
        case "bell":
            channel.offer(number, ())
        case "learn":
            channel.learn(number)
        case "fill" if channel.missing is not None:
            after, upto = channel.missing
            last = min(upto, after + number)
            channel.offer(last, [event("r", seq) for seq in range(after + 1, last + 1)])
        case _:
            pass


@given(
    positions=st.lists(st.integers(0, LAST), min_size=5, max_size=5),
    happenings=st.lists(_happening, max_size=60),
    ring=st.integers(1, 4),
)
def test_a_watcher_gets_each_event_once_and_in_order_whatever_the_bus_does(
    positions: list[int], happenings: list[tuple[str, int, int]], ring: int
) -> None:
    """Never twice, never out of order, never beyond what is published; and everything, once all is learnt."""
    channel = Channel("r", ring_max_frames=ring)
    watchers = [Watcher(position) for position in positions]
    for kind, number, length in happenings:
        if kind == "watch":
            watchers[number].look(channel)
        else:
            before = channel.head
            apply(channel, kind, number, length)
            assert channel.head >= before, "what is published was taken back"
            # Two are awake and look at once; the others look when they are told to.
            for watcher in watchers[:2]:
                watcher.look(channel)
    channel.learn(LAST)
    while channel.missing is not None:
        apply(channel, "fill", 3, 0)
    for watcher in watchers:
        while watcher.look(channel):
            pass
        assert watcher.seen == list(range(watcher.began + 1, LAST + 1))


@given(
    stretches=st.lists(st.tuples(_seq, st.integers(0, 12)), max_size=60),
    ring_frames=st.integers(1, 4),
    size=st.integers(0, 3000),
)
def test_the_ring_is_bounded_in_frames_and_in_bytes(
    stretches: list[tuple[int, int]], ring_frames: int, size: int
) -> None:
    """Twice the limit at most, by frames and by bytes, but for the one newest frame."""
    ring_bytes = 2000
    channel = Channel("r", ring_max_frames=ring_frames, ring_max_bytes=ring_bytes)
    channel.learn(0)
    data = '{"text":"' + "x" * size + '"}'
    for first, length in stretches:
        last = min(LAST, first + length)
        channel.offer(last, [event("r", seq)._replace(data=data) for seq in range(first, last + 1)])
        held = channel._ring
        total = sum(len(frame.text) for frame in held)
        assert len(held) <= 2 * ring_frames
        assert total <= 2 * ring_bytes or len(held) == 1
        assert total == channel._ring_bytes
        assert [frame.seq for frame in held] == list(range(held[0].seq, held[0].seq + len(held))) if held else True


def test_news_before_the_first_tail_is_not_taken_for_the_beginning() -> None:
    """A watcher attaches: the bus brings 7 to 9 before the tail query answers; 1 to 6 come from the database."""
    channel = Channel("r")
    channel.offer(9, [event("r", seq) for seq in (7, 8, 9)])
    channel.learn(8)
    watcher = Watcher(0)
    while watcher.look(channel):
        pass
    assert watcher.seen == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert watcher.pages == 2


def test_a_bell_before_the_first_tail_is_not_forgotten() -> None:
    """News without events came first: what lies between the tail and the news is missing, and is asked for."""
    channel = Channel("r")
    channel.offer(9, ())
    channel.learn(5)
    assert channel.head == 9
    assert channel.missing == (5, 9)


def test_a_position_ahead_of_what_is_published_waits() -> None:
    """A client that got events from a publisher which died before it marked them is not given them again."""
    channel = Channel("r")
    channel.learn(4)
    watcher = Watcher(6)
    channel.offer(6, [event("r", 5), event("r", 6)])
    assert not watcher.look(channel)
    channel.offer(7, [event("r", 7)])
    watcher.look(channel)
    assert watcher.seen == [7]
