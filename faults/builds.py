"""Known-bad builds: six mistakes that systems of this kind make, each as patches to the running code.

A check that has never failed proves nothing.  Each build is caught by the campaign
(``python -m faults --bad-build NAME --expect-violation``) or by its twin in ``tests/faults``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import Any

from tailrace.errors import RunNotFound
from tailrace.http.stream import EventStream
from tailrace.read.hub import Hub, Watched
from tailrace.store import queries
from tailrace.store.events import Tail
from tailrace.store.outbox import OutboxTransaction, Unpublished
from tailrace.write.publisher import Publisher

# What to set on what: (owner, attribute, replacement).
Patches = list[tuple[Any, str, Any]]


def backfill_before_subscribe() -> Patches:
    """Ask the database how far the run is published, and subscribe afterwards."""

    async def attach(self: Hub, run_id: str, *, tenant: str | None = None) -> tuple[Watched, Tail]:
        tail = (await self._events.tails([run_id])).get(run_id)
        if tail is None or tenant not in (None, tail.tenant):
            raise RunNotFound(f"there is no run {run_id!r}")
        watched = await self._enter(run_id)
        self._learn(watched, tail)
        return watched, tail

    return [(Hub, "attach", attach)]


def no_epoch_check() -> Patches:
    """Append without asking whose lease it is."""
    return _rewritten({" and locked.epoch = batch.epoch": ""})


def mark_before_publish() -> Patches:
    """Mark and commit, then hand over: at most once instead of at least once."""

    async def one_pass(self: Publisher, advance: Callable[[OutboxTransaction], Awaitable[list[Unpublished]]]) -> Any:
        async with self._outbox.transaction() as transaction:
            ready = await advance(transaction)
        if ready:
            self._remember(ready)
            await self._hand_over(ready)
        return ready

    async def ahead(self: Publisher, ours: Sequence[Unpublished]) -> None:
        taken = await self._outbox.advance_from(ours)
        marked = [run for run in ours if run.run_id in taken]
        self._remember(marked)
        self._miss({run.run_id for run in ours} - set(taken))
        await self._hand_over(marked)

    return [(Publisher, "_pass", one_pass), (Publisher, "_hand_over_ahead", ahead)]


def resume_off_by_one() -> Patches:
    """Resume with the event that the client has named instead of the one after it."""
    original = EventStream.__init__

    def init(self: EventStream, get_services: Any, run_id: str, position: int, principal: Any) -> None:
        original(self, get_services, run_id, max(0, position - 1), principal)

    return [(EventStream, "__init__", init)]


def no_tail_check() -> Patches:
    """Believe that the bus brings everything."""

    async def check(_: Hub, _run_ids: Sequence[str]) -> None:
        return

    return [(Hub, "_check", check)]


def order_by_time() -> Patches:
    """Order events by when they were emitted, as if all clocks agreed."""
    return _rewritten(
        {
            "order by events.seq\n": "order by events.ts\n",
            "order by event.run_id, event.seq": "order by event.run_id, event.ts",
            "order by page.seq": "order by page.ts",
        }
    )


BUILDS: dict[str, Callable[[], Patches]] = {
    "backfill-before-subscribe": backfill_before_subscribe,
    "no-epoch-check": no_epoch_check,
    "mark-before-publish": mark_before_publish,
    "resume-off-by-one": resume_off_by_one,
    "no-tail-check": no_tail_check,
    "order-by-time": order_by_time,
}


def _rewritten(changes: dict[str, str]) -> Patches:
    """Rewrite statements as they are loaded; every change must find its place in some file, or the build is not bad."""
    folder = resources.files("tailrace.store").joinpath("sql")
    texts = "".join(file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".sql"))
    missing = [before for before in changes if before not in texts]
    if missing:
        raise LookupError(f"no statement contains {missing}: the bad build has to follow the code")
    original = queries.in_schema

    def in_schema(sql: str, schema: str) -> str:
        for before, after in changes.items():
            sql = sql.replace(before, after)
        return original(sql, schema)

    queries.query.cache_clear()
    return [(queries, "in_schema", in_schema)]
