"""Every line of the log, by having each happening written."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import fields
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from scripts.reference.page import NOTE, Wordless, summary_of, table
from tailrace import telemetry
from tailrace.exporters.logs import LibraryHandler, LogExporter
from tailrace.exporters.otel import KINDS
from tailrace.told import HandedOver, Written
from tailrace.trace import Span, TraceContext

# Lines that are not one for one with a happening, so that its words are not theirs.
OWN_WORDS = {
    "metric.events_inserted": "An event was committed. With `TAILRACE_LOG_EVENTS=1`.",
    "metric.events_published": "An event was handed to the bus, `lag_ms` after its `ts`. With `TAILRACE_LOG_EVENTS=1`.",
    "outbox.advance": "A run's cursor moved; `nextSeq` will be published next. `info` with `TAILRACE_LOG_EVENTS=1`.",
    "outbox.batch": "Events were handed over; `lag_ms` is that of the oldest. `info` with `TAILRACE_LOG_EVENTS=1`.",
    "request.refused": "Requests, or connections, were turned away; `count` since the last line. One a minute each.",
    "library.log": "A library that Tailrace uses, or Python itself, had something to say.",
}
SPANS = {
    "run.start": "The call that started the run; the beginning of its trace.",
    "run.execute": "A worker had the run; one more for each takeover.",
    "node NAME": "A node or a step of the run.",
}
_RUN = SimpleNamespace(
    run_id="r", first_seq=1, last_seq=1, types=["Custom"], events=[SimpleNamespace(seq=1, type="Custom", ts=1)]
)
_SAMPLES: dict[Any, Any] = {
    str: "x",
    int: 1,
    float: 1.0,
    bool: True,
    BaseException: ValueError("x"),
    TraceContext: TraceContext("0" * 31 + "1", "0" * 15 + "1"),
    Sequence[str]: ("x",),
    Sequence[Written]: (_RUN,),
    Sequence[HandedOver]: (_RUN,),
}
INTRODUCTION = """\
One JSON object a line on standard error: `timestamp`, `level`, `event`, and the fields below. The log is silent when
nothing changes; `TAILRACE_LOG_LEVEL` and `TAILRACE_LOG_EVENTS` say how much is written. No line holds an event's
data, a run's input or a credential. Lines that concern a run have its id twice, as `run_id` and `runId`; those of
traced runs also have `trace_id` and `span_id`.

"""
TRACES = """
## Spans

With `tailrace[otel]` and an endpoint ([settings](settings.md)), each with `tailrace.run_id` and `tailrace.agent`:

"""


def page() -> str:
    """Return the page.

    :raises Wordless: a happening, or a line that has not the words of one, says nothing of itself.
    """
    if missing := KINDS.keys() - SPANS.keys():
        raise Wordless(f"no words for the spans {', '.join(sorted(missing))}")
    rows = [
        (f"`{event}`", levels, ", ".join(f"`{name}`" for name in names), meaning)
        for event, (levels, names, meaning) in sorted(lines().items())
    ]
    return (
        f"{NOTE}# Log lines\n\n{INTRODUCTION}{table(('event', 'level', 'fields', 'when'), rows)}{TRACES}"
        f"{table(('span', 'what it is'), [(f'`{name}`', meaning) for name, meaning in SPANS.items()])}"
    )


def lines() -> dict[str, tuple[str, list[str], str]]:
    """Return, by event, the levels it is written at, its fields, and when it is written."""
    found: dict[str, tuple[list[str], list[str], str]] = {}
    for kind in get_args(telemetry.Happening):
        if kind is Span:
            continue
        of_kind = [line for complete in (False, True) for line in written(kind, complete=complete)]
        if len({line["event"] for line in of_kind} - OWN_WORDS.keys()) > 1:
            raise Wordless(f"{kind.__name__} is written as several lines; say in OWN_WORDS what each is")
        for line in of_kind:
            meaning = OWN_WORDS.get(line["event"]) or summary_of(kind)
            _add(found, line, meaning)
    stream = io.StringIO()
    LibraryHandler(stream).handle(logging.LogRecord("asyncio", logging.WARNING, "", 1, "x", None, None))
    _add(found, json.loads(stream.getvalue()), OWN_WORDS["library.log"])
    return {event: (", ".join(levels), names, meaning) for event, (levels, names, meaning) in found.items()}


def _add(found: dict[str, tuple[list[str], list[str], str]], line: dict[str, Any], meaning: str) -> None:
    levels, names, _ = found.setdefault(line["event"], ([], [], meaning))
    levels += [line["level"]] * (line["level"] not in levels)
    own = line.keys() - {"timestamp", "level", "event", "run_id", "trace_id", "span_id", *names}
    names += [name for name in line if name in own]


def written(kind: type, *, complete: bool) -> list[dict[str, Any]]:
    """Return the lines of one happening; ``complete`` is one with all that it may say, and a log that is told to."""
    stream = io.StringIO()
    LogExporter(level="debug", log_events=complete, stream=stream)(_sample(kind, complete=complete))
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def _sample(kind: type, *, complete: bool) -> Any:
    hints = get_type_hints(kind)
    return kind(**{of.name: _value(hints[of.name], complete=complete) for of in fields(kind)})


def _value(hint: Any, *, complete: bool) -> Any:
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    if type(None) in (choices := get_args(hint)):
        return _SAMPLES[choices[0]] if complete else None
    return _SAMPLES[hint]
