"""Structured logs: one JSON object a line on standard error.

Silent when nothing changed; a line for every event only with ``TAILRACE_LOG_EVENTS=1``.  No line holds an event's
data, a run's input or a credential.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Literal, TextIO, assert_never

import structlog

from tailrace import telemetry as t
from tailrace.trace import Span

Level = Literal["debug", "info", "warning", "error"]
# Strangers choose how many requests are refused, and must not choose how much is written: a line a reason in this time.
REFUSED_LINE_SECONDS = 60.0
_LEVELS: dict[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class LogExporter:
    """Writes happenings as JSON lines.

    :param clock: gives monotonic seconds.
    """

    def __init__(
        self,
        *,
        level: Level,
        log_events: bool,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._refused: dict[str, int] = {}
        self._refused_told: dict[str, float] = {}
        self._log_events = log_events
        # One line a batch and a run: as many as events at low rates, so they share the events' switch.
        self._flow_level: Level = "info" if log_events else "debug"
        self._threshold = _LEVELS[level]
        self._logger = _json_logger(stream or sys.stderr, self._threshold)

    def __call__(self, happening: t.Happening) -> None:
        """Write what the happening says, if it says anything at this level."""
        match happening:
            case t.EventsPersisted():
                if self._log_events:
                    self._persisted(happening)
            case t.EventsPublished():
                if _LEVELS[self._flow_level] >= self._threshold:
                    self._published(happening)
            case t.RequestRefused():
                self._count_refused(happening.reason)
            case Span():
                pass
            case t.RunCreated() | t.JobStarted() | t.JobEnded() if (trace := happening.trace) is not None:
                level, event, fields = line(happening)
                self._write(level, event, fields | {"trace_id": trace.trace_id, "span_id": trace.span_id})
            case _:
                self._write(*line(happening))

    def _persisted(self, happening: t.EventsPersisted) -> None:
        for run in happening.runs:
            for seq, kind in enumerate(run.types, run.first_seq):
                self._write("info", "metric.events_inserted", _of_run(run.run_id, seq=seq, type=kind))

    def _published(self, happening: t.EventsPublished) -> None:
        for run in happening.runs:
            if self._log_events:
                for event in run.events:
                    fields = {"seq": event.seq, "type": event.type, "lag_ms": _lag_ms(happening.at_ms, event.ts)}
                    self._write("info", "metric.events_published", _of_run(run.run_id, **fields))
            self._write(self._flow_level, "outbox.advance", _of_run(run.run_id, nextSeq=run.last_seq + 1))
        oldest = min(run.events[0].ts for run in happening.runs)
        size = sum(len(run.events) for run in happening.runs)
        self._write(self._flow_level, "outbox.batch", {"size": size, "lag_ms": _lag_ms(happening.at_ms, oldest)})

    def _count_refused(self, reason: t.RefusalReason) -> None:
        """Write how many were refused since the last line of this reason, at most once in so long."""
        self._refused[reason] = self._refused.get(reason, 0) + 1
        now = self._clock()
        if (told := self._refused_told.get(reason)) is None or now - told >= REFUSED_LINE_SECONDS:
            self._refused_told[reason] = now
            self._write("warning", "request.refused", {"reason": reason, "count": self._refused.pop(reason)})

    def _write(self, level: Level, event: str, fields: dict[str, Any]) -> None:
        if _LEVELS[level] >= self._threshold:
            getattr(self._logger, level)(event, **fields)


class LibraryHandler(logging.Handler):
    """Writes the records of Python's own ``logging``, those of the libraries, as JSON lines too.

    For a process that is Tailrace's alone; in somebody's application, logging is theirs.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(logging.WARNING)
        self._logger = _json_logger(stream or sys.stderr, logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        level = "error" if record.levelno >= logging.ERROR else "warning"
        getattr(self._logger, level)(
            "library.log", logger=record.name, message=record.getMessage(), exc_info=record.exc_info
        )


def _json_logger(stream: TextIO, threshold: int) -> Any:
    return structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
    )


def _of_run(run_id: str, **fields: Any) -> dict[str, Any]:
    # Both spellings: run_id is the one of every log line, runId the one of the event and of the HTTP API.
    return {"run_id": run_id, "runId": run_id, **fields}


def _lag_ms(at_ms: float, ts: int) -> float:
    return round(max(0.0, at_ms - ts), 3)


def line(happening: t.Happening) -> tuple[Level, str, dict[str, Any]]:  # noqa: PLR0911, PLR0912 - one case a happening
    """Return level, event name and fields of a happening's log line."""
    fields: dict[str, Any]
    match happening:
        case t.EventsPersisted() | t.EventsPublished() | t.RequestRefused() | Span():
            return "debug", "flow", {}  # LogExporter writes these itself, by its own rules; spans are for others.
        case t.RunCreated():
            return "info", "run.created", _of_run(happening.run_id, agent=happening.agent)
        case t.OutboxGap():
            fields = _of_run(happening.run_id, expected_seq=happening.expected_seq, found_seq=happening.found_seq)
            return "error", "outbox.gap", fields
        case t.JobStarted():
            fields = {"agent": happening.agent, "epoch": happening.epoch, "resumed": happening.resumed}
            return "info", "worker.job.start", _of_run(happening.run_id, **fields)
        case t.JobEnded():
            fields = {"agent": happening.agent, "state": happening.state}
            return "info", "worker.job.end", _of_run(happening.run_id, **fields)
        case t.FirstNode():
            return "debug", "run.first_node", _of_run(happening.run_id, seconds=round(happening.seconds, 6))
        case t.StreamOpened():
            return "info", "stream.open", _of_run(happening.run_id, fromSeq=happening.from_seq)
        case t.StreamClosed():
            fields = {"lastSeq": happening.last_seq, "reason": happening.reason}
            return "info", "stream.close", _of_run(happening.run_id, **fields)
        case t.DutyFailed():
            fields = {"duty": happening.duty, "error": happening.error, "retry_seconds": happening.retry_seconds}
            if happening.unforeseen is None:
                return "warning", "duty.failed", fields
            return "error", "duty.failed", fields | {"exc_info": happening.unforeseen}
        case t.WakeupsLost():
            return "warning", "wakeups.lost", {"error": happening.error}
        case t.WakeupsRestored():
            return "info", "wakeups.restored", {}
        case t.WakeupsDead():
            return "warning", "wakeups.dead", {"error": happening.error}
        case t.BusLost():
            return "warning", "bus.lost", {"bus": happening.address, "error": happening.error}
        case t.BusRestored():
            return "info", "bus.restored", {"bus": happening.address}
        case t.RunsArchived():
            fields = {"object": happening.object, "runs": happening.runs, "events": happening.events}
            return "info", "archive.object", fields | {"size_bytes": happening.size_bytes}
        case t.RunNotArchivable():
            return "error", "archive.gap", _of_run(happening.run_id)
        case t.ArchiveTurnEnded():
            return "debug", "archive.turn", {"rows_deleted": happening.rows_deleted}
        case t.ProcessReady():
            return "info", "process.ready", {"roles": list(happening.roles), "address": happening.address}
        case t.ProcessStopping():
            return "info", "process.stopping", {"cause": happening.cause}
        case t.KeysFileRead():
            return "info", "keys.read", {"path": happening.path, "active": happening.active}
        case t.KeysFileBroken():
            return "error", "keys.broken", {"error": happening.error}
        case t.RequestFailed():
            fields = {"method": happening.method, "path": happening.path, "exc_info": happening.error}
            return "error", "request.failed", fields
        case _:
            assert_never(happening)
