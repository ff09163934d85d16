"""Asking: what streams that attach at the same moment want to know of their runs is one statement.

While one is in flight, all who ask wait for the next.  An answer is therefore never older than the question.
"""

from __future__ import annotations

import asyncio

from tailrace.errors import TailraceError
from tailrace.store.events import Events, Tail

# As many as one look at all channels asks for.
ASK_MAX_RUNS = 500


class Asking:
    """Asks for the tails of runs, those of all callers together."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._waiting: dict[asyncio.Future[Tail | None], str] = {}
        self._task: asyncio.Task[None] | None = None

    async def tail(self, run_id: str) -> Tail | None:
        """Return the tail of a run, None when there is no such run; raise ``DatabaseUnavailable``."""
        answer: asyncio.Future[Tail | None] = asyncio.get_running_loop().create_future()
        self._waiting[answer] = run_id
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._ask())
        return await answer

    async def _ask(self) -> None:
        try:
            while self._waiting:
                asked = dict(list(self._waiting.items())[:ASK_MAX_RUNS])
                for answer in asked:
                    del self._waiting[answer]
                await self._ask_for(asked)
        finally:
            self._task = None

    async def _ask_for(self, asked: dict[asyncio.Future[Tail | None], str]) -> None:
        try:
            tails = await self._events.tails(sorted(set(asked.values())))
        except Exception as error:  # noqa: BLE001 - it is each caller's to raise
            for answer in asked:
                if not answer.done():
                    # An exception of its own for each: one that several tasks raise grows their tracebacks together.
                    own = type(error)(str(error)) if isinstance(error, TailraceError) else error
                    own.__cause__ = error.__cause__
                    answer.set_exception(own)
        else:
            for answer, run_id in asked.items():
                if not answer.done():
                    answer.set_result(tails.get(run_id))
        finally:
            for answer in asked:
                answer.cancel()  # The process stops; of one that is answered this does nothing.
