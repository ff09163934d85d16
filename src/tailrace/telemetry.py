"""Names of happenings.  Each exists once, as a frozen record; the exporters turn them into log lines and metrics.

A part of Tailrace that has something to say builds a record and passes it to ``Telemetry.tell``; it knows neither
loggers nor metrics.  Exporters are leaves: they see every record and choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tailrace.told import HandedOver, Written
from tailrace.trace import Span, TraceContext

# Why a request is turned away before anything is done for it. A bounded set: it is the label of a metric.
RefusalReason = Literal[
    "not-authenticated",
    "scope-missing",
    "key-misplaced",
    "cross-site",
    "foreign-host",
    "too-many-streams",
    "too-many-connections",
]
REFUSAL_REASONS: tuple[RefusalReason, ...] = get_args(RefusalReason)

# The duty whose failures are those of the archive.
ARCHIVE_DUTY = "archive.keep"


@dataclass(frozen=True, slots=True)
class RunCreated:
    """A run and its RunStarted were committed."""

    run_id: str
    agent: str
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class EventsPersisted:
    """Events of these runs were committed together."""

    runs: Sequence[Written]


@dataclass(frozen=True, slots=True)
class EventsPublished:
    """Events of these runs were handed to the bus, marked, and the runs' cursors moved.

    ``at_ms`` is when, in milliseconds since the Unix epoch; an event's lag is that less its ``ts``.
    """

    runs: Sequence[HandedOver]
    at_ms: float


@dataclass(frozen=True, slots=True)
class OutboxGap:
    """A run's next event to publish does not exist: an append bug or a deleted row."""

    run_id: str
    expected_seq: int
    found_seq: int


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A worker claimed a run and begins to execute it."""

    run_id: str
    agent: str
    epoch: int
    resumed: bool
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class JobEnded:
    """A worker is done with a run; ``state`` is a terminal state, ``released`` or ``lease-lost``."""

    run_id: str
    agent: str
    state: str
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class FirstNode:
    """A run's first node started, ``seconds`` after the run was created."""

    run_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """A client attached to a run's stream, at a position above zero when it reconnects."""

    run_id: str
    from_seq: int
    reconnect: bool


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """A stream ended; ``reason`` is terminal, client-gone, rotated, shutdown, too-slow, revoked or trouble."""

    run_id: str
    last_seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class DutyFailed:
    """A background duty failed and will be tried again after ``retry_seconds``.

    ``unforeseen`` is the error itself when it is none of ours: a mistake in the code, worth its traceback.
    """

    duty: str
    error: str
    retry_seconds: float
    unforeseen: BaseException | None = None


@dataclass(frozen=True, slots=True)
class WakeupsLost:
    """The wake-up connection broke; polling carries on until it is back."""

    error: str


@dataclass(frozen=True, slots=True)
class WakeupsRestored:
    """The wake-up connection is back."""


@dataclass(frozen=True, slots=True)
class WakeupsDead:
    """The wake-up connection stands and hears nothing, as behind a pooler; polling takes its place."""

    error: str


@dataclass(frozen=True, slots=True)
class BusLost:
    """The bus is away; events are published all the same, and other processes' streams poll."""

    address: str
    error: str


@dataclass(frozen=True, slots=True)
class BusRestored:
    """The bus is back."""

    address: str


@dataclass(frozen=True, slots=True)
class RunsArchived:
    """Runs were copied into an object of the archive, which was read back."""

    object: str
    runs: int
    events: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RunNotArchivable:
    """A finished run stays in Postgres, for rows of it are missing."""

    run_id: str


@dataclass(frozen=True, slots=True)
class ArchiveTurnEnded:
    """A turn of archiving came to its end without an error, whether or not there was anything to archive.

    ``at_seconds`` is when, since the Unix epoch; ``rows_deleted`` how many rows left Postgres.
    """

    at_seconds: float
    rows_deleted: int


@dataclass(frozen=True, slots=True)
class ProcessReady:
    """A process serves its roles."""

    roles: Sequence[str]
    address: str


@dataclass(frozen=True, slots=True)
class ProcessStopping:
    """A process was asked to stop."""

    cause: str


@dataclass(frozen=True, slots=True)
class KeysFileRead:
    """The keys file was read, at start or because it changed; ``active`` counts the keys that are not revoked."""

    path: str
    active: int


@dataclass(frozen=True, slots=True)
class KeysFileBroken:
    """The keys file changed into something that cannot be used; what it said before still holds."""

    error: str


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """A request, or a connection, was turned away: whoever sent it may not, or there are too many."""

    reason: RefusalReason


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A request met an error that nobody foresaw; the client got 500."""

    method: str
    path: str
    error: BaseException


Happening = (
    RunCreated
    | EventsPersisted
    | EventsPublished
    | OutboxGap
    | JobStarted
    | JobEnded
    | FirstNode
    | StreamOpened
    | StreamClosed
    | DutyFailed
    | WakeupsLost
    | WakeupsRestored
    | WakeupsDead
    | BusLost
    | BusRestored
    | RunsArchived
    | RunNotArchivable
    | ArchiveTurnEnded
    | ProcessReady
    | ProcessStopping
    | KeysFileRead
    | KeysFileBroken
    | RequestRefused
    | RequestFailed
    | Span
)
Exporter = Callable[[Happening], None]


class Telemetry:
    """Passes each happening to every exporter."""

    def __init__(self, exporters: Sequence[Exporter] = ()) -> None:
        self._exporters = tuple(exporters)

    def tell(self, happening: Happening) -> None:
        """Hand a record to the exporters; none of them may block or raise."""
        for exporter in self._exporters:
            exporter(happening)
