"""The demo's own client: follow a run, cut the stream in the middle, resume it from the last seq, count what came.

What was lost is measured, not assumed: every seq that was received is counted, and compared in the end with the
``lastSeq`` that the API gives.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, cast

from tailrace.client import Client
from tailrace.demo.tally import Tally
from tailrace.errors import TailraceError
from tailrace.model.event import Event, EventType
from tailrace.model.run import TERMINAL_STATES, RunState

# An agent that says nothing for this long hangs: a walk through a large folder on a slow disk is the longest silence.
SILENCE_MAX_SECONDS = 120.0
# While the stream is cut, this many events go by before it is resumed, or this much time.
MISSED_MIN = 10
CUT_MAX_SECONDS = 2.0
POLL_SECONDS = 0.02
# What a cancelled run may take to end before the demo leaves it to the next worker.
CANCEL_MAX_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the stream was cut, and how many events the run wrote before it was resumed from there."""

    seq: int
    missed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the run and of its stream."""

    run_id: str
    state: RunState
    events: int
    lost: int
    twice: int
    resumed_from: int | None
    output: dict[str, Any]
    error: str | None

    @property
    def proven(self) -> bool:
        """Whether the run finished and every event of it arrived exactly once."""
        return self.state == RunState.FINISHED and self.lost == 0 and self.twice == 0


async def watch(
    client: Client, run_id: str, *, on_event: Callable[[Event], None], on_cut: Callable[[Cut], None]
) -> Outcome:
    """Follow the run to its end, with one cut in the middle, and return what came of it.

    Cut is at the first half of a node's progress; a run that makes none is not cut.  When the stream is silent for
    ``SILENCE_MAX_SECONDS``, what has arrived by then counts.
    """
    tally = Tally()
    cut: Cut | None = None
    with suppress(TimeoutError):
        last = await _follow(client, run_id, 0, tally, on_event, until=is_middle)
        if last is not None and not last.is_terminal:
            cut = Cut(last.seq, await _let_pass(client, run_id, last.seq))
            on_cut(cut)
            await _follow(client, run_id, cut.seq, tally, on_event, until=lambda _: False)
    view = await client.get(run_id)
    return Outcome(
        run_id=run_id,
        state=view.state,
        events=tally.seen,
        lost=tally.lost(view.last_seq),
        twice=tally.twice,
        resumed_from=cut.seq if cut is not None else None,
        output=view.output if isinstance(view.output, dict) else {},
        error=view.error.message if view.error is not None else None,
    )


async def end(client: Client, run_id: str) -> None:
    """Cancel the run and wait a moment for its end, so that no later worker takes it over; errors are let go."""
    with suppress(TailraceError, TimeoutError):
        async with asyncio.timeout(CANCEL_MAX_SECONDS):
            await client.cancel(run_id)
            while (await client.get(run_id)).state not in TERMINAL_STATES:  # noqa: ASYNC110 - another process may end it
                await asyncio.sleep(POLL_SECONDS)


def is_middle(event: Event) -> bool:
    """Whether a node says that half of its work is done."""
    if event.type != EventType.CUSTOM or event.name != "Progress":
        return False
    done, of = event.data.get("done"), event.data.get("of")
    return isinstance(done, int) and isinstance(of, int) and done * 2 >= of


async def _follow(
    client: Client,
    run_id: str,
    from_seq: int,
    tally: Tally,
    on_event: Callable[[Event], None],
    *,
    until: Callable[[Event], bool],
) -> Event | None:
    """Count and show events until the stream ends or ``until`` says so; return the last one."""
    last = None
    # Closing the generator closes the connection: the server sees its client go away in the middle of a response.
    stream = cast("AsyncGenerator[Event]", client.stream(run_id, from_seq=from_seq))
    async with aclosing(stream):
        while True:
            async with asyncio.timeout(SILENCE_MAX_SECONDS):
                event = await anext(stream, None)
            if event is None:
                return last
            last = event
            tally.add(event.seq)
            on_event(event)
            if until(event):
                return last


async def _let_pass(client: Client, run_id: str, seq: int) -> int:
    """Wait until the run has gone on without its client; return how many events it has written since ``seq``."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CUT_MAX_SECONDS
    while True:
        view = await client.get(run_id)
        missed = view.last_seq - seq
        if missed >= MISSED_MIN or view.state in TERMINAL_STATES or loop.time() > deadline:
            return missed
        await asyncio.sleep(POLL_SECONDS)
