"""Every error that Tailrace raises on purpose, as one tree.

    TailraceError
    ├── SettingsError              a setting is unknown or has a bad value
    ├── UsageError                 the library or the command line was used in a way that cannot work
    ├── InvalidInput               a request or document is not acceptable (carries JSON pointers)
    │   ├── InvalidEvent           an event that may not be written
    │   │   └── EventTooLarge      its data is over the limit
    │   ├── InvalidPosition        a stream position that is not a whole number in range
    │   └── IdempotencyConflict    the same key came with another body
    ├── BodyTooLarge               a request body is over the limit
    ├── AccessRefused              a request may not do what it asks
    │   ├── NotAuthenticated       no key or token that counts came with it
    │   ├── ScopeMissing           its key has not the scope
    │   ├── KeyMisplaced           a key stands where it must not: in the URL, or twice
    │   └── CrossSiteRefused       a browser sent it for another site
    ├── BodyTooSlow                a request body did not come in time
    ├── UnsupportedBody            a request body is declared as something else than plain JSON
    ├── NotFound
    │   ├── RunNotFound
    │   └── AgentNotFound
    ├── Conflict
    │   ├── RunExists              the run id is taken
    │   ├── RunTerminated          the run has ended; nothing can be added
    │   ├── RunActive              the run has not ended, or is not published to its end
    │   └── PositionAhead          a stream position beyond the run's last event
    ├── LeaseLost                  another worker owns the run now
    ├── NodeTimeout                a node took longer than its bound (also a TimeoutError)
    ├── Unavailable                trouble that passes: try again
    │   ├── DatabaseUnavailable
    │   │   ├── OutcomeUnknown     the answer to a start was lost: it may have been executed
    │   │   └── DatabaseReadOnly   Postgres answers and takes no writes
    │   ├── BusUnavailable
    │   ├── ArchiveUnavailable     the store of the archive is away, or nobody said where it is
    │   ├── ArchiveBusy            another process archives, restores or purges now
    │   ├── ServerUnavailable      a client could not reach the server
    │   └── NotStarted             the App was used before its lifespan started it
    ├── PositionGone               the events after a stream position are nowhere any more
    ├── ArchiveMismatch            what was stored is not what was read, or rows are missing
    ├── SchemaMismatch             the database is behind or ahead of this code
    ├── LocalPostgresError         the embedded server could not be had
    └── ApiError                   a client was given an answer it did not expect

The text of each says what was tried, what was found and what to do.  Driver errors are wrapped once, in
``store``, with ``__cause__`` kept.  ``http.problems`` maps this tree to HTTP in one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TailraceError(Exception):
    """Base of every error that Tailrace raises on purpose."""


class SettingsError(TailraceError):
    """A setting is unknown or has a bad value; the text names it and what is allowed."""


class UsageError(TailraceError):
    """The library or the command line was used in a way that cannot work."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a document: where (RFC 6901 pointer) and what."""

    pointer: str
    detail: str


class InvalidInput(TailraceError):
    """A document is not acceptable.

    :param detail: what was found, for a person.
    :param faults: each place that is wrong; empty when the document as a whole is.
    """

    def __init__(self, detail: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail)
        self.faults = tuple(faults)


class InvalidEvent(InvalidInput):
    """An event that may not be written: a bad name, or data that is not strict JSON."""


class EventTooLarge(InvalidEvent):
    """An event's data is larger than ``TAILRACE_MAX_EVENT_BYTES``."""


class InvalidPosition(InvalidInput):
    """A stream position that is not ``0|[1-9][0-9]{0,18}``."""


class IdempotencyConflict(InvalidInput):
    """An ``Idempotency-Key`` was used before with another body."""


class BodyTooLarge(TailraceError):
    """A request body is over the limit."""


class AccessRefused(TailraceError):
    """A request may not do what it asks."""


class NotAuthenticated(AccessRefused):
    """No key or token came with the request, or one that does not count."""


class ScopeMissing(AccessRefused):
    """The key is good, and has not the scope that the call needs."""


class KeyMisplaced(AccessRefused):
    """A key stands in the URL, where logs keep it, or the ``Authorization`` header came twice."""


class CrossSiteRefused(AccessRefused):
    """A browser sent the request for a page of another site."""


class BodyTooSlow(TailraceError):
    """A request body did not come in time."""


class UnsupportedBody(TailraceError):
    """A request body is declared as something else than plain JSON."""


class NotFound(TailraceError):
    """What was named does not exist."""


class RunNotFound(NotFound):
    """No run has this id."""


class AgentNotFound(NotFound):
    """No agent has this name."""


class Conflict(TailraceError):
    """What was asked does not fit the present state."""


class RunExists(Conflict):
    """The run id is taken."""


class RunTerminated(Conflict):
    """The run has ended; nothing can be added to it."""


class RunActive(Conflict):
    """The run has not ended, or is not published to its end yet."""


class PositionAhead(Conflict):
    """A stream position is beyond the run's last event."""


class LeaseLost(TailraceError):
    """The lease of this worker on the run is over; another worker may own it."""


class NodeTimeout(TailraceError, TimeoutError):
    """A node took longer than the bound it was given."""


class Unavailable(TailraceError):
    """Trouble that passes: the same call may succeed later."""


class DatabaseUnavailable(Unavailable):
    """Postgres could not be reached or did not answer in time.

    ``sent`` says that a statement was under way: it may have been executed, and only its answer was lost.
    """

    sent = False


class OutcomeUnknown(DatabaseUnavailable):
    """Whether a run was started is not known: Postgres went away after it was asked, and before it answered."""


class DatabaseReadOnly(DatabaseUnavailable):
    """Postgres answers, and lets nobody write: a standby, or a database that was made read-only."""


class BusUnavailable(Unavailable):
    """The event bus could not be reached or did not answer in time."""


class ArchiveUnavailable(Unavailable):
    """The store that holds the archive could not be reached, or this process was not told where it is."""


class ArchiveBusy(Unavailable):
    """Another process archives, restores or purges now; one at a time may."""


class ServerUnavailable(Unavailable):
    """A client could not reach the Tailrace server."""


class NotStarted(Unavailable):
    """The App was used before its lifespan started it."""


class PositionGone(TailraceError):
    """The events that follow a stream position are neither in Postgres nor in the archive.

    :param earliest: the first position whose following events can still be had.
    """

    def __init__(self, detail: str, earliest: int) -> None:
        super().__init__(detail)
        self.earliest = earliest


class ArchiveMismatch(TailraceError):
    """What was read back from the archive is not what was written, or a run's rows are not all there."""


class SchemaMismatch(TailraceError):
    """The database's schema is behind or ahead of this code."""


class LocalPostgresError(TailraceError):
    """The embedded Postgres could not be started or reached."""


class ApiError(TailraceError):
    """The server refused a client's request.

    :param status: HTTP status.
    :param problem: the RFC 9457 document, empty when the answer was not one.
    """

    def __init__(self, status: int, problem: dict[str, object]) -> None:
        title = problem.get("title") or "unexpected answer"
        detail = problem.get("detail")
        super().__init__(f"{status} {title}: {detail}" if detail else f"{status} {title}")
        self.status = status
        self.problem = problem
