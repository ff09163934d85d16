"""The figures of one run in words: what each row says, as the runbook reads them."""

from __future__ import annotations

from tailrace.store.health import Figures


def explain(of: Figures) -> list[tuple[str, str, str]]:
    """Return name, value and meaning of each figure."""
    return [
        ("state", of.state, _of_state(of)),
        ("last_seq", str(of.last_seq), "the newest event persisted"),
        ("next_seq", str(of.next_seq), _of_next(of)),
        ("event at next_seq", of.next_type or "none", _of_head(of)),
        ("lease", _seconds(of.lease_left_seconds), _of_lease(of)),
        ("last event", _seconds(of.last_event_age_seconds), "how long ago it was written"),
        ("outbox row", _seconds(of.outbox_silent_seconds), "how long ago the outbox last moved or deferred the run"),
        ("agent", of.agent, _of_agent(of)),
    ]


def _of_state(of: Figures) -> str:
    if of.ended:
        return "it has ended, and a terminal state never changes"
    if of.state == "queued":
        return f"it waits for a worker since {of.age_seconds:.1f} s"
    return f"it is executed; its row last changed {of.silent_seconds:.1f} s ago"


def _of_next(of: Figures) -> str:
    if of.backlog <= 0:
        return "everything is published" + ("" if of.ended else "; the run may still be executing")
    return f"{of.backlog} events are persisted and not published"


def _of_head(of: Figures) -> str:
    if of.backlog <= 0:
        return "none is due"
    if of.next_type is None:
        return "a gap: the row does not exist"
    return f"it waits since {of.next_age_seconds or 0:.1f} s"


def _of_lease(of: Figures) -> str:
    if of.lease_left_seconds is None:
        return "nobody holds one"
    owner = of.lease_owner or "nobody: it was given back"
    return f"until it ends; {owner}" if of.lease_left_seconds > 0 else f"it is over; {owner}"


def _of_agent(of: Figures) -> str:
    if of.agent_unseen_seconds is None:
        return "no worker has ever served it"
    return f"a worker served it {of.agent_unseen_seconds:.1f} s ago"


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} s"
