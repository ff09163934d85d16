"""Driver errors wrapped once: what passes by itself, what an operator mends, and what is a mistake of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from tailrace.errors import DatabaseUnavailable

# What passes by itself: the server is away, starting, stopping, full, read-only, or too slow to answer in time.
PASSING = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,  # as far as ``_is_misuse`` does not say otherwise
    asyncpg.InternalClientError,  # a server killed in the middle of an answer
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # a lock that cannot be had; a database that lets nobody in
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.PostgresSystemError,
)
# A session that is not the one in which the statement was prepared.
OTHER_SESSION = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)

# asyncpg raises InterfaceError for its misuse, and for a connection or a pool that is gone, which alone passes: these
# texts tell them apart. A pooled connection that was lost between two statements counts as given back.
_GONE = ("closed", "closing", "released back to the pool", "another operation is cancelling")

# What an operator has to mend; everything goes on by itself once that is done.
_ADVICE: dict[type[Exception], str] = {
    asyncpg.exceptions.ClientConfigurationError: "Check TAILRACE_DATABASE_URL",
    asyncpg.InvalidPasswordError: "Check TAILRACE_DATABASE_URL",
    asyncpg.InvalidAuthorizationSpecificationError: "Check TAILRACE_DATABASE_URL",
    asyncpg.InvalidCatalogNameError: "Create the database first",
    asyncpg.UndefinedTableError: "Run `tailrace db upgrade`",
    asyncpg.InsufficientPrivilegeError: "Check the grants of the role that Tailrace connects as",
}
_HANDLED: tuple[type[Exception], ...] = (*PASSING, *OTHER_SESSION, *_ADVICE)
# Errors that end a connection, and with it the knowledge of what became of the statement under way. After any other
# error that Postgres sends, the statement has not happened.
_UNANSWERED = (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)


@contextmanager
def passing(verb: str, address: str, *, sent: bool = False) -> Iterator[None]:
    """Turn driver errors that pass by themselves, or by an operator's hand, into ``DatabaseUnavailable``.

    What can only be a mistake of ours is left as it is, to be found in the log.

    :param sent: statements are executed in the block, so that one may be lost between its commit and its answer.
    """
    try:
        yield
    except _HANDLED as error:
        if _is_misuse(error):
            raise
        found = str(error).rstrip(".") or type(error).__name__
        advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), "It may pass: try again")
        unavailable = DatabaseUnavailable(f"could not {verb} Postgres at {address}: {found}. {advice}")
        unavailable.sent = sent and (isinstance(error, _UNANSWERED) or not isinstance(error, asyncpg.PostgresError))
        raise unavailable from error


def _is_misuse(error: Exception) -> bool:
    """Whether the driver was used wrongly, as by an argument of the wrong type or one too many."""
    if not isinstance(error, asyncpg.InterfaceError) or isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return False
    return not any(text in str(error) for text in _GONE)
