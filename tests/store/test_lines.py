"""Rows as text parameters: whatever a name holds comes back as it was."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailrace.model import draft
from tailrace.store.events import Events, RunAppend
from tailrace.store.leases import Leases
from tailrace.store.runs import Runs
from tests.write_support import NOW_MS, started

# The separators and what the escapes of them are made of, more often than chance would bring them.
NAMES = st.text(st.one_of(st.sampled_from("\x1d\x1e\x1fsru"), st.characters(exclude_categories=["Cs"]))).filter(
    lambda name: 1 <= len(name) <= draft.NAME_MAX and "\x00" not in name
)


@settings(
    max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(names=st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=20))
async def test_names_come_back_as_they_were(
    runs: Runs, leases: Leases, events: Events, names: list[tuple[str, str]]
) -> None:
    """Names of events, of functions and in data, with control characters and without; and keys of steps."""
    lease = await started(runs, leases)
    drafts = [
        event
        for name, fn in names
        for event in (draft.custom(name, {fn: name}, NOW_MS, max_bytes=10_000), draft.debug_trace(fn, NOW_MS))
    ]
    steps = list({key: (key, 2, f'"{number}"') for number, (key, _) in enumerate(names)}.values())
    append = RunAppend(lease.run_id, lease.epoch, 2, drafts, steps)
    await events.append([append])
    stored = await events.page(lease.run_id, after=1, upto=2**40, limit=100, max_bytes=2**20)
    assert stored == append.events
    assert await leases.kept_steps(lease.run_id) == {key: result for key, _, result in steps}
