"""Where in a trace something happened: W3C trace contexts and the spans between them.  No SDK is needed to carry them.

The context of a run's start stands in its row as a `traceparent`, so that whoever executes the run, in whatever
process, continues its trace.  A row without one is not traced, and costs nothing.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_HEADER = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}\Z")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One span's place: the ids of its trace and of itself, in hexadecimal."""

    trace_id: str
    span_id: str

    @property
    def traceparent(self) -> str:
        """The context as the header of W3C Trace Context, sampled."""
        return f"00-{self.trace_id}-{self.span_id}-01"

    def child(self) -> TraceContext:
        """Return the place of a new span of the same trace."""
        return TraceContext(self.trace_id, secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class Span:
    """Something of a run began and ended, in nanoseconds since the Unix epoch; ``error`` is how it failed if it did."""

    name: str
    context: TraceContext
    parent: TraceContext | None
    run_id: str
    agent: str
    begun_ns: int
    ended_ns: int
    error: str | None


def new_trace() -> TraceContext:
    """Return the first place of a trace."""
    return TraceContext(secrets.token_hex(16), secrets.token_hex(8))


def parse_traceparent(text: str | None) -> TraceContext | None:
    """Return the context in a `traceparent`, None for none and for what is not one."""
    found = _HEADER.match(text) if text is not None else None
    return TraceContext(found[1], found[2]) if found is not None else None


@dataclass(slots=True)
class Ending:
    """How a block ends, for those that fail without raising."""

    error: str | None = None


@contextmanager
def spanning(
    tell: Callable[[Span], None], name: str, context: TraceContext, parent: TraceContext, run_id: str, agent: str
) -> Iterator[Ending]:
    """Tell of the block as a span once it has ended, in whatever way."""
    begun_ns, ending = time.time_ns(), Ending()
    try:
        yield ending
    except BaseException as raised:
        ending.error = type(raised).__name__
        raise
    finally:
        tell(Span(name, context, parent, run_id, agent, begun_ns, time.time_ns(), ending.error))
