"""What must hold when everything has healed.  Pure: rows and lists in, violations out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tailrace.model.event import TERMINAL_TYPES, EventType
from tailrace.model.run import STATE_AFTER

Kind = Literal["lost", "duplicated", "out-of-order", "stuck", "log", "fencing", "refused"]
KINDS: tuple[Kind, ...] = ("lost", "duplicated", "out-of-order", "stuck", "log", "fencing", "refused")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise that was broken."""

    kind: Kind
    run_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An event whose ``await`` has returned in an agent."""

    run_id: str
    epoch: int
    token: str


def log_violations(run: Row, events: Sequence[Row]) -> list[Violation]:
    """Compare one run's row, its outbox cursor (``next_seq``) and its events, in order of seq, with the invariants."""
    run_id, last = run["id"], len(events)
    found = []

    def expect(holds: bool, detail: str) -> None:
        if not holds:
            found.append(Violation("log", run_id, detail))

    seqs = [event["seq"] for event in events]
    expect(seqs == list(range(1, last + 1)), f"seqs are not 1 to {last}: {_around(seqs)}")
    expect(run["last_seq"] == max(seqs, default=0), f"last_seq is {run['last_seq']}, the log ends at {seqs[-1:]}")
    expect(bool(events) and events[0]["type"] == EventType.RUN_STARTED, "the log does not begin with RunStarted")
    terminal = [event for event in events if event["type"] in TERMINAL_TYPES]
    if not terminal:
        found.append(Violation("stuck", run_id, f"no terminal event; state {run['state']}, last seq {run['last_seq']}"))
    else:
        expect(len(terminal) == 1, f"{len(terminal)} terminal events")
        expect(terminal[0] is events[-1], f"{terminal[0]['type']} at seq {terminal[0]['seq']} is not the last event")
        ends = STATE_AFTER[EventType(terminal[0]["type"])]
        expect(run["state"] == ends, f"state is {run['state']}, its terminal event says {ends}")
    marked = [event["seq"] for event in events if event["published_at"] is not None]
    upto = run["next_seq"] - 1
    expect(marked == list(range(1, upto + 1)), f"next_seq is {upto + 1}, but published are {_around(marked)}")
    if terminal and upto < last:
        found.append(Violation("stuck", run_id, f"published up to {upto} of {last}"))
    epochs = [event["epoch"] for event in events]
    if epochs != sorted(epochs):
        found.append(Violation("fencing", run_id, f"epochs fall along seq: {epochs}"))
    finished = Counter(e["name"] for e in events if e["type"] == EventType.NODE_FINISHED and _is_step(e["name"]))
    repeated = [name for name, count in finished.items() if count > 1]
    if repeated:
        found.append(Violation("duplicated", run_id, f"kept steps were finished again: {repeated}"))
    return found


def stream_violations(run_id: str, who: str, last: int, seqs: Sequence[int]) -> list[Violation]:
    """Compare what one client received, over all its connections, with exactly 1 to ``last`` in order."""
    found = []
    counts = Counter(seqs)
    if lost := [seq for seq in range(1, last + 1) if seq not in counts]:
        found.append(Violation("lost", run_id, f"{who} never received {_around(lost)} of {last}"))
    if doubled := [seq for seq, count in counts.items() if count > 1]:
        found.append(Violation("duplicated", run_id, f"{who} received more than once: {_around(doubled)}"))
    firsts = list(dict.fromkeys(seqs))
    if firsts != sorted(firsts):
        found.append(Violation("out-of-order", run_id, f"{who} received {_around(firsts)}"))
    if invented := [seq for seq in counts if not 1 <= seq <= last]:
        found.append(Violation("log", run_id, f"{who} received events that the log does not have: {_around(invented)}"))
    return found


def token_violations(acknowledged: Iterable[Acknowledged], tokens: Mapping[str, Sequence[str]]) -> list[Violation]:
    """Compare what agents were told is durable with the tokens that stand in the table, by run."""
    counts = {run_id: Counter(found) for run_id, found in tokens.items()}
    found = [
        Violation("lost", ack.run_id, f"{ack.token} was acknowledged under epoch {ack.epoch} and is not in the log")
        for ack in acknowledged
        if ack.token not in counts.get(ack.run_id, ())
    ]
    for run_id, counted in counts.items():
        found += [
            Violation("duplicated", run_id, f"{token} stands in the log {count} times")
            for token, count in counted.items()
            if count > 1
        ]
    return found


def fence_violations(heads: Mapping[tuple[str, int], int], events: Iterable[Row]) -> list[Violation]:
    """Compare events with what was seen while it happened.

    :param heads: ``last_seq`` of a run when it was first seen with an epoch, by run and epoch; nothing of an earlier
        epoch may stand behind it.
    """
    of_run: dict[str, list[tuple[int, int]]] = {}
    for (run_id, epoch), last_seq in heads.items():
        of_run.setdefault(run_id, []).append((epoch, last_seq))
    return [
        Violation(
            "fencing",
            event["run_id"],
            f"seq {event['seq']} was written under epoch {event['epoch']} after epoch {epoch} had begun",
        )
        for event in events
        for epoch, last_seq in of_run.get(event["run_id"], ())
        if event["seq"] > last_seq and event["epoch"] < epoch and event["epoch"] > 0
    ]


def _is_step(name: str) -> bool:
    return name.startswith("Step-")


def _around(seqs: Sequence[int]) -> str:
    """Show where a list stops being contiguous, and not all of it."""
    at = next((i for i in range(1, len(seqs)) if seqs[i] != seqs[i - 1] + 1), len(seqs))
    shown = ", ".join(map(str, seqs[max(0, at - 3) : at + 4]))
    return f"[{'… ' if at > 3 else ''}{shown}{' …' if at + 4 < len(seqs) else ''}] ({len(seqs)})"
