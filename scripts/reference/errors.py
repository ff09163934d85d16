"""The tree of errors, what each is over HTTP, and the errors that stand outside of it."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from http import HTTPStatus
from importlib import import_module

import tailrace
from scripts.reference.page import NOTE, code, summary_of, table
from tailrace import errors
from tailrace.errors import TailraceError
from tailrace.http.problems import STATUS, type_of

# What no error of the tree stands for: status, how its type ends, and when it is the answer.
OTHERS: tuple[tuple[HTTPStatus, str | None, str], ...] = (
    (HTTPStatus.BAD_REQUEST, "bad-request", "What came is not HTTP, names two hosts, or did not wait for answers."),
    (HTTPStatus.BAD_REQUEST, None, "A body did not come to its end."),
    (HTTPStatus.NOT_FOUND, None, "Nothing is served under this path; `GET /openapi.json` lists what is."),
    (HTTPStatus.METHOD_NOT_ALLOWED, None, "The path is served, and not with this method."),
    (HTTPStatus.REQUEST_TIMEOUT, "request-timeout", "A request's head did not come within `TAILRACE_REQUEST_SECONDS`."),
    (HTTPStatus.REQUEST_URI_TOO_LONG, "request-uri-too-long", "The request's target is too long."),
    (HTTPStatus.MISDIRECTED_REQUEST, "misdirected-request", "Without keys, the `Host` is not this machine itself."),
    (
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "request-header-fields-too-large",
        "The request's headers are too large.",
    ),
    (HTTPStatus.INTERNAL_SERVER_ERROR, None, "An error that nobody foresaw; the log has it as `request.failed`."),
    (HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", "`/readyz` alone: something is not there; the detail says what."),
)
# Errors with a status that no server answers: groups, and those of agents, commands and clients alone.
NOT_ANSWERED = frozenset(
    {
        errors.AccessRefused,
        errors.ArchiveBusy,
        errors.BusUnavailable,
        errors.Conflict,
        errors.InvalidEvent,
        errors.EventTooLarge,
        errors.NotFound,
        errors.RunActive,
        errors.ServerUnavailable,
        errors.Unavailable,
    }
)
# Modules that are started and not imported.
STARTED = frozenset({"tailrace.__main__", "tailrace.local.launch"})
INTRODUCTION = """\
Every error that Tailrace raises on purpose is a `tailrace.TailraceError`. Its text says what was tried, what was
found and what to do. Those of the tree are in `tailrace.errors`; those that agents meet, in `tailrace` too.
"""
HTTP = """## Over HTTP

Errors are answered as problem documents (RFC 9457, `application/problem+json`): `type`, `title`, `status`, `detail`;
with 422 also `errors`, a list of `{"pointer", "detail"}`; with 410 `earliestFromSeq`. Those of 503 come with
`Retry-After`, those of 401 with `WWW-Authenticate`. A type begins with `urn:tailrace:problem:`; one that is empty
here is `about:blank`. The event stream answers what passes by itself with 200 and `retry:`
([endpoints](endpoints.md)).

"""
ENDINGS = """## In RunFailed

What an agent raises ends its run in `RunFailed`, with the class as `fn` and the message in `data`. Tailrace itself
ends runs with these:

"""
ELSEWHERE = """## Of commands

What a command meets is printed as `tailrace: …` on standard error, with exit code 2 for `SettingsError` and
`UsageError` and 1 for all others. These are of single commands:

"""


def page() -> str:
    """Return the page."""
    outside = [kind for kind in every_error() if kind.__module__ != errors.__name__]
    ends = [kind for kind in outside if ".worker." in kind.__module__]
    return "".join(
        (
            f"{NOTE}# Errors\n\n{INTRODUCTION}\n## The tree\n\n",
            table(("error", "under", "status", "meaning"), [_row(kind) for kind in _tree()]),
            f"\n{HTTP}",
            table(("status", "type", "when"), sorted(problems())),
            f"\n{ENDINGS}",
            table(("fn", "meaning"), [(f"`{kind.__name__}`", summary_of(kind)) for kind in ends]),
            f"\n{ELSEWHERE}",
            table(("error", "under", "meaning"), [_local(kind) for kind in outside if kind not in ends]),
        )
    )


def every_error() -> list[type[TailraceError]]:
    """Return every error of the package, wherever it stands, parents first and then by name."""
    for module in pkgutil.walk_packages(tailrace.__path__, "tailrace."):
        if module.name not in STARTED:
            import_module(module.name)
    return [TailraceError, *_below(TailraceError)]


def _tree() -> list[type[TailraceError]]:
    return [kind for kind in every_error() if kind.__module__ == errors.__name__]


def _below(kind: type[TailraceError]) -> Iterator[type[TailraceError]]:
    inner = [of for of in kind.__subclasses__() if of.__module__.startswith("tailrace.")]
    # Those of the tree in its own order, for it goes from the common to the rare; then the others by name.
    for child in sorted(inner, key=lambda of: "" if of.__module__ == errors.__name__ else of.__name__):
        yield child
        yield from _below(child)


def status_of(kind: type[TailraceError]) -> HTTPStatus | None:
    """Return what an error is answered with, None when no request can meet it."""
    return next((status for known, status in STATUS if issubclass(kind, known)), None)


def _row(kind: type[TailraceError]) -> tuple[str, str, str, str]:
    status = status_of(kind)
    parent = kind.__mro__[1]
    under = f"`{parent.__name__}`" if issubclass(parent, TailraceError) else ""
    answered = str(int(status)) if status and kind not in NOT_ANSWERED else ""
    return f"`{kind.__name__}`", under, answered, summary_of(kind)


def _local(kind: type[TailraceError]) -> tuple[str, str, str]:
    return f"`{kind.__name__}`", f"`{kind.__mro__[1].__name__}`", summary_of(kind)


def problems() -> Iterator[tuple[str, str, str]]:
    """Yield status, ending of the type, and occasion of every problem document."""
    for kind in _tree():
        if (status := status_of(kind)) is not None and kind not in NOT_ANSWERED:
            yield str(int(status)), code(type_of(kind)), summary_of(kind)
    for status, ending, when in OTHERS:
        yield str(int(status)), code(ending) if ending else "", when
