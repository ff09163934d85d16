"""Runs: their states as a table, and the words that name them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from tailrace.errors import Fault, InvalidInput, InvalidPosition
from tailrace.model.event import RUN_ID_PATTERN, SEQ_MAX, EventType

_RUN_ID = re.compile(RUN_ID_PATTERN.rstrip("$") + r"\Z")
_POSITION = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z", re.ASCII)
AGENT_NAME_MAX = 128
# The doctor's canaries are runs of agents named so, with the run's id behind it; no user's agent may be, and no list
# shows them.
CANARY_AGENT_PREFIX = "tailrace:canary:"
# Whose the runs are where no credentials are configured.
DEFAULT_TENANT = "default"
TENANT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class RunState(StrEnum):
    """Where a run is."""

    QUEUED = "queued"
    STARTED = "started"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


# The state machine.  The database's trigger holds the same table, and a test compares the two.
TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    RunState.QUEUED: frozenset({RunState.STARTED, RunState.FAILED, RunState.CANCELLED}),
    RunState.STARTED: frozenset({RunState.FINISHED, RunState.FAILED, RunState.CANCELLED}),
    RunState.FINISHED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
}
TERMINAL_STATES = frozenset(state for state, following in TRANSITIONS.items() if not following)
STATE_AFTER: dict[EventType, RunState] = {
    EventType.RUN_FINISHED: RunState.FINISHED,
    EventType.RUN_FAILED: RunState.FAILED,
    EventType.RUN_CANCELLED: RunState.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the database holds it; ``input`` and ``output`` are JSON text, times are aware and UTC."""

    id: str
    agent: str
    state: RunState
    input: str | None = field(repr=False)
    output: str | None = field(repr=False)
    last_seq: int
    next_seq: int
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    error_class: str | None
    error_message: str | None

    @property
    def backlog(self) -> int:
        """How many events are persisted and not yet published."""
        return self.last_seq - self.next_seq + 1


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to append to a run.

    ``epoch`` rises with each acquisition and is the fence: an append with an older one is refused.
    ``takeovers`` counts how often a worker was found dead while it held the run, since a step of it was last kept;
    ``cancel_requested`` says that it was asked to end under an earlier lease, ``created_at_seconds`` is Unix time;
    ``traceparent`` is where in a trace the run was started, None when it is not traced.
    """

    run_id: str
    agent: str
    input: str | None = field(repr=False)
    epoch: int
    last_seq: int
    takeovers: int
    resumed: bool
    cancel_requested: bool
    created_at_seconds: float
    traceparent: str | None = None


def check_run_id(run_id: object, pointer: str = "/runId") -> str:
    """Return ``run_id`` if it is a legal run id, else raise ``InvalidInput``."""
    if isinstance(run_id, str) and _RUN_ID.match(run_id):
        return run_id
    raise InvalidInput(
        "the run id is not acceptable",
        [Fault(pointer, "must be 1 to 128 of A-Z a-z 0-9 . _ : - and begin with a letter or a digit")],
    )


def is_run_id(text: str) -> bool:
    """Whether ``text`` is a legal run id."""
    return _RUN_ID.match(text) is not None


def parse_position(text: str, pointer: str) -> int:
    """Return the stream position in ``text``: the last seq a client has processed, 0 for none.

    Raise ``InvalidPosition`` for anything but ``0|[1-9][0-9]{0,18}``, so that ``+5``, ``1_000`` and full-width digits,
    which ``int()`` takes, are refused.
    """
    if _POSITION.match(text):
        # 19 digits can say more than Postgres can count.  No seq is beyond ``SEQ_MAX``, so that position says the same.
        return min(int(text), SEQ_MAX)
    raise InvalidPosition(
        "the stream position is not acceptable",
        [Fault(pointer, "must be a whole number of at most 19 digits, without sign or leading zero")],
    )
