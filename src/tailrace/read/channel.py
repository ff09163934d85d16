"""One watched run, as far as this process knows it.  Pure: no I/O, no clock, no tasks.

The bus may lose, repeat and reorder what it says, so it is believed in one respect only: that events up to some seq
are published.  ``head`` is the highest such seq.  The ring holds the newest frames, contiguous, encoded once; it only
ever grows at its end by the very next seq.  A watcher is a cursor: ``after(position)`` gives it frames from the ring,
tells it to wait, or tells it that its position has left the ring and the database must serve it.

    news that joins the ring's end            -> the ring grows
    news that repeats what is known           -> ignored
    news beyond a gap, or without the events  -> head rises; the hub reads what is missing from the database, once for
                                                 all watchers, and the ring grows by it

So a lost message costs the time until the next news or the next tail check, never an event, and nothing is passed on
twice: a watcher only ever moves forward.
"""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.model.event import StoredEvent
from tailrace.read.frame import Frame, frame

# Enough for a watcher that falls behind by a second of a fast run; who falls behind further reads the database.
RING_MAX_FRAMES = 1024
RING_MAX_BYTES = 2**20


class Channel:
    """The published events of one run: how far they go, and the newest of them."""

    def __init__(
        self, run_id: str, *, ring_max_frames: int = RING_MAX_FRAMES, ring_max_bytes: int = RING_MAX_BYTES
    ) -> None:
        self.run_id = run_id
        self.head = 0
        self.closed = False
        self._ring: list[Frame] = []
        self._ring_bytes = 0
        self._ring_last: int | None = None
        self._ring_max_frames = ring_max_frames
        self._ring_max_bytes = ring_max_bytes

    @property
    def missing(self) -> tuple[int, int] | None:
        """``(after, upto)`` of what is published and not in the ring's reach, None when nothing is."""
        if self._ring_last is None or self._ring_last >= self.head:
            return None
        return self._ring_last, self.head

    @property
    def newest(self) -> int | None:
        """The seq up to which the ring has grown, None before anything is known."""
        return self._ring_last

    def learn(self, published_seq: int) -> bool:
        """Take over how far the database says the run is published; return whether that is news."""
        if self._ring_last is None:
            self._ring_last = published_seq
        if published_seq <= self.head:
            return False
        self.head = published_seq
        return True

    def offer(self, last_seq: int, events: Sequence[StoredEvent]) -> bool:
        """Take what the bus or the database says: events up to ``last_seq`` are published, and here are some.

        Return whether the ring has grown.
        """
        self.head = max(self.head, last_seq)
        if not events:
            return False
        if self._ring_last is None:
            self._ring_last = events[0].seq - 1
        grown = False
        for event in events:
            if event.seq == self._ring_last + 1:
                self._push(frame(event))
                self._ring_last = event.seq
                grown = True
            elif event.seq > self._ring_last:
                break  # A gap: the database fills it, and gives these again.
        return grown

    def after(self, position: int, *, limit: int | None = None) -> Sequence[Frame] | None:
        """Return the frames that follow ``position``, ``limit`` at most, empty when there is none yet.

        None means that the position has left the ring: read the database from there up to ``head``.
        """
        if self._ring_last is None or position >= self._ring_last:
            return ()
        if self._ring and position + 1 >= self._ring[0].seq:
            first = position + 1 - self._ring[0].seq
            return self._ring[first : None if limit is None else first + limit]
        return None

    def _push(self, newest: Frame) -> None:
        self._ring.append(newest)
        self._ring_bytes += len(newest.text)
        # Cutting half at a time makes the cost of a push constant.
        if len(self._ring) > 2 * self._ring_max_frames:
            self._cut(self._ring_max_frames)
        while self._ring_bytes > 2 * self._ring_max_bytes and len(self._ring) > 1:
            self._cut(len(self._ring) // 2)

    def _cut(self, count: int) -> None:
        self._ring_bytes -= sum(len(old.text) for old in self._ring[:count])
        del self._ring[:count]
