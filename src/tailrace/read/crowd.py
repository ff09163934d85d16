"""The watchers of one run that are up to date: no tasks, no queues, one position and one copy of the bytes.

A member of a crowd is a connection that has been sent everything so far and takes what it is given.  News is encoded
once, with the framing of HTTP's chunks, and the same bytes are written to every member in one loop.  Who cannot take
more leaves with the position that it has reached, and is served at its own pace (``read.follow``) until it can join
again.

    joins     at the crowd's position, after what the ring holds between its own and that
    leaves    when its transport is full, when it is gone, or when its stream ends; nothing is owed to it then
    ends      all at once after the terminal event, who is full then too, or when the channel is closed

With few watchers news goes out in the publisher's call.  With many it goes out in rounds: to a squad at a time, one
squad a turn of the loop, so that other runs' news waits for one squad and not for the crowd.  A crowd at rest is told
at once; what comes during a round is gathered for the next, which waits the longer the more there was to tell
(``rest_seconds``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Protocol

from tailrace.read.channel import Channel
from tailrace.read.frame import CHUNK_MAX_FRAMES, Chunk, http_chunk, joined

# Writes cost 5 to 9 µs each, four fifths of it the kernel's: up to so many are done in the publisher's call, 0.3 ms at
# most.
FEW = 32
# One turn of the loop writes to so many: less than a millisecond.
SQUAD_MAX = 100
# The rest between two rounds, as a part of what the last one took, for each event beyond the first that it told: a
# round costs the same however many events it carries. Without a rest 200 events/s to 1,000 watchers kept the loop so
# busy that the run itself fell behind; with 10 ms after every round 100 events/s came 7 ms later (measured, p50).
REST_PART_PER_EVENT, REST_MAX_PART = 2 / 3, 1.0
REST_MAX_SECONDS = 0.025
# News beyond this goes out without waiting for the tick, long before the ring drops it.
GATHER_MAX_EVENTS = 256


def rest_seconds(took_seconds: float, events: int) -> float:
    """Return how long a crowd rests after a round that took so long and told so many events."""
    part = min(REST_MAX_PART, (events - 1) * REST_PART_PER_EVENT)
    return min(REST_MAX_SECONDS, took_seconds * part)


class Member(Protocol):
    """What a crowd needs of a connection."""

    squad: Squad | None

    @property
    def principal(self) -> Hashable:
        """Whose stream it is."""
        ...

    @property
    def write(self) -> Callable[[bytes], None]:
        """Write bytes to the connection, without waiting; it may make the member leave."""
        ...

    def fall_behind(self) -> None:
        """Be served from the database: the ring no longer holds what is due."""
        ...

    def end(self, reason: str) -> None:
        """End the stream, whether or not it is a member still."""
        ...


class Squad:
    """Members that are written to in one turn; all have been sent everything up to ``position``."""

    __slots__ = ("members", "position", "principals", "wrote_at")

    def __init__(self, position: int) -> None:
        self.position = position
        self.members: dict[Member, Callable[[bytes], None]] = {}
        self.principals: dict[Hashable, int] = {}
        self.wrote_at = 0.0


class Crowd:
    """The members that watch one run; empty for most runs.

    :param still_holds: whether the key behind a stream still counts; asked for each principal before each write.
    """

    __slots__ = ("_began_at", "_channel", "_rested_at", "_round", "_shared", "_still_holds", "_told", "size", "squads")

    def __init__(self, channel: Channel, still_holds: Callable[[Hashable], bool]) -> None:
        self._channel = channel
        self._still_holds = still_holds
        self._began_at = self._rested_at = 0.0
        self._told = 0
        self._round: asyncio.Handle | None = None
        self._shared: tuple[int, Chunk] | None = None
        self.squads: list[Squad] = []
        self.size = 0

    def join(self, member: Member, position: int) -> Chunk | None:
        """Take a member in and return what it must be sent before anything else, with an empty text for nothing.

        None when it cannot join: its position has left the ring, is further from the crowd than one chunk, or ahead of
        everything.
        """
        newest = self._channel.newest
        if newest is None:
            return None
        squad = next((each for each in self.squads if len(each.members) < SQUAD_MAX), None)
        if squad is not None and position > squad.position:
            self._flush(squad)  # Its news waits for the tick.
            squad = squad if squad.members else None
        at = squad.position if squad is not None else newest
        due = Chunk(b"", position, terminal=False)
        if position != at:
            frames = self._channel.after(position, limit=at - position) if position < at else None
            if not frames or (due := joined(frames)).last_seq != at:
                return None
        if squad is None:
            squad = Squad(at)
            self.squads.append(squad)
        squad.members[member] = member.write
        squad.principals[member.principal] = squad.principals.get(member.principal, 0) + 1
        member.squad = squad
        self.size += 1
        return due

    def leave(self, member: Member) -> int:
        """Let a member go and return the position up to which it was sent everything."""
        squad = member.squad
        assert squad is not None  # noqa: S101 - only members leave
        del squad.members[member]
        left = squad.principals[member.principal] - 1
        if left:
            squad.principals[member.principal] = left
        else:
            del squad.principals[member.principal]
        member.squad = None
        self.size -= 1
        if not squad.members:
            self.squads.remove(squad)
        return squad.position

    def news(self) -> None:
        """Pass on that the ring has grown, or that the channel is closed."""
        if not self.squads:
            return
        if self._channel.closed:
            self._end("shutdown", self.squads)
        elif self.size <= FEW or self._gathered() > GATHER_MAX_EVENTS:
            for squad in list(self.squads):
                self._flush(squad)
        elif self._round is None:
            loop = asyncio.get_running_loop()
            # Never in this call: it is the publisher's, which has rows locked and other runs to tell.
            self._round = loop.call_at(max(loop.time(), self._rested_at), self._begin_round)

    def _gathered(self) -> int:
        return (self._channel.newest or 0) - min(squad.position for squad in self.squads)

    def _begin_round(self) -> None:
        self._began_at, self._told = asyncio.get_running_loop().time(), self._gathered()
        self._turn(list(self.squads))

    def _turn(self, squads: list[Squad]) -> None:
        loop, self._round = asyncio.get_running_loop(), None
        if squads:
            self._flush(squads.pop())
            # The next turn comes after the others' callbacks and sockets have had theirs: the loop sends what this one
            # wrote before it, so the last turn, which writes nothing, sees what the round took.
            self._round = loop.call_soon(self._turn, squads)
            return
        took = loop.time() - self._began_at
        self._shared, self._rested_at = None, loop.time() + rest_seconds(took, self._told)
        if self.squads and self._gathered() > 0:
            self.news()

    def _flush(self, squad: Squad) -> None:
        """Write to a squad what the ring holds after its position."""
        while squad.members:
            if self._shared is not None and self._shared[0] == squad.position:
                chunk = self._shared[1]
            else:
                frames = self._channel.after(squad.position, limit=CHUNK_MAX_FRAMES)
                if frames is None:
                    for member in list(squad.members):
                        member.fall_behind()
                    return
                if not frames:
                    return
                chunk = joined(frames)
                chunk = chunk._replace(text=http_chunk(chunk.text))
                if self.size > SQUAD_MAX:
                    self._shared = squad.position, chunk
            self._refuse_revoked(squad)
            squad.position, squad.wrote_at = chunk.last_seq, asyncio.get_running_loop().time()
            text, members = chunk.text, list(squad.members.items())
            for _, write in members:
                write(text)
            if chunk.terminal:
                # Those too that the write made full: they have left, and nothing else would tell them.
                for member, _ in members:
                    member.end("terminal")

    def _refuse_revoked(self, squad: Squad) -> None:
        for principal in list(squad.principals):
            if not self._still_holds(principal):
                for member in [each for each in squad.members if each.principal == principal]:
                    member.end("revoked")

    def _end(self, reason: str, squads: list[Squad]) -> None:
        for squad in list(squads):
            for member in list(squad.members):
                member.end(reason)
