"""Prometheus metrics.  No run id, agent name or other open set is ever a label."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tailrace import telemetry as t
from tailrace.exporters.churn import COUNT_MAX, WINDOW_SECONDS, Churn
from tailrace.model.run import STATE_AFTER
from tailrace.told import Emitted

_ENDS = {str(kind): state for kind, state in STATE_AFTER.items()}
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Around the operators' bounds: normal under 100 ms, critical over 500 ms.
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
# A turn that failed as a whole, and a run that stays in Postgres because rows of it are missing.
ARCHIVE_FAILURES = ("turn", "gap")
FIRST_NODE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0)


class PrometheusExporter:
    """Counts happenings, in a registry of its own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._started = Counter("tailrace_runs_started", "Runs created.", registry=registry)
        self._finished = Counter(
            "tailrace_runs_finished", "Runs that ended, by terminal state.", ["state"], registry=registry
        )
        self._persisted = Counter("tailrace_events_persisted", "Events committed to Postgres.", registry=registry)
        self._published = Counter("tailrace_events_published", "Events handed to the bus.", registry=registry)
        self._lag = LagHistogram("tailrace_outbox_lag_seconds", "Published minus emitted.")
        registry.register(self._lag)
        self._first_node = Histogram(
            "tailrace_time_to_first_node_seconds",
            "From a run's creation to its first NodeStarted.",
            buckets=FIRST_NODE_BUCKETS,
            registry=registry,
        )
        self._backlog = Gauge(
            "tailrace_outbox_backlog_events", "Events persisted and not yet published.", registry=registry
        )
        self._oldest = Gauge(
            "tailrace_outbox_oldest_unpublished_seconds",
            "Age of the oldest unpublished event, 0 when there is none.",
            registry=registry,
        )
        self._stalled = Gauge(
            "tailrace_runs_stalled", "Started runs without a new event for TAILRACE_STALL_SECONDS.", registry=registry
        )
        self._streams = Gauge("tailrace_streams_active", "Open streams.", registry=registry)
        self._reconnects = Counter(
            "tailrace_stream_reconnects", "Streams opened with a position above zero.", registry=registry
        )
        self._churn = Churn()
        Gauge(
            "tailrace_stream_reconnects_max",
            f"The most reconnects of any one run at this process within the last {WINDOW_SECONDS:g} seconds, up to "
            f"{COUNT_MAX}.",
            registry=registry,
        ).set_function(self._churn.most)
        self._archived = Archived(registry)
        self._refused = Counter(
            "tailrace_requests_refused",
            f"Requests that were turned away, by reason: {', '.join(t.REFUSAL_REASONS)}.",
            ["reason"],
            registry=registry,
        )
        for reason in t.REFUSAL_REASONS:
            self._refused.labels(reason)
        for state in ("finished", "failed", "cancelled"):
            self._finished.labels(state)

    def __call__(self, happening: t.Happening) -> None:
        """Count the happening, if it is one that is counted."""
        match happening:
            case t.RunCreated():
                self._started.inc()
            case t.EventsPersisted():
                written = [run.types for run in happening.runs]
                self._persisted.inc(sum(map(len, written)))
                for types in written:
                    if (state := _ENDS.get(types[-1])) is not None:
                        self._finished.labels(state).inc()
            case t.EventsPublished():
                self._published.inc(sum([len(run.events) for run in happening.runs]))
                for run in happening.runs:
                    self._lag.observe(run.events, happening.at_ms)
            case t.FirstNode():
                self._first_node.observe(happening.seconds)
            case t.StreamOpened():
                self._streams.inc()
                if happening.reconnect:
                    self._reconnects.inc()
                    self._churn.add(happening.run_id)
            case t.StreamClosed():
                self._streams.dec()
            case t.RequestRefused():
                self._refused.labels(happening.reason).inc()
            case _:
                self._archived.count(happening)

    def observe_database(
        self, *, backlog: int, oldest_unpublished_seconds: float | None, stalled: int, restored_events: int
    ) -> None:
        """Set the gauges that only the database knows."""
        self._backlog.set(backlog)
        self._oldest.set(oldest_unpublished_seconds or 0.0)
        self._stalled.set(stalled)
        self._archived.restored.set(restored_events)

    def render(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self.registry)


class Archived:
    """What the archive's duty has done in this process, and what the database knows of restored runs.

    `tailrace archive` is a process of its own that nobody scrapes: what it archives is not counted, what it restores is
    seen in the database.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._runs = Counter(
            "tailrace_archive_runs", "Runs that this process's worker copied to the archive.", registry=registry
        )
        self._events = Counter(
            "tailrace_archive_events", "Events that this process's worker copied to the archive.", registry=registry
        )
        self._bytes = Counter(
            "tailrace_archive_bytes", "Bytes that this process's worker wrote to the archive.", registry=registry
        )
        self._failures = Counter(
            "tailrace_archive_failures",
            f"What the archive's duty could not do, by reason: {', '.join(ARCHIVE_FAILURES)}.",
            ["reason"],
            registry=registry,
        )
        for reason in ARCHIVE_FAILURES:
            self._failures.labels(reason)
        self._succeeded = Gauge(
            "tailrace_archive_last_success_timestamp_seconds",
            "When a turn of this process's worker last ended well, since the Unix epoch; 0 when none has.",
            registry=registry,
        )
        self.restored = Gauge(
            "tailrace_archive_restored_events",
            "Events of archived runs that were brought back into Postgres.",
            registry=registry,
        )

    def count(self, happening: t.Happening) -> None:
        """Count the happening, if it is one of the archive."""
        match happening:
            case t.RunsArchived():
                self._runs.inc(happening.runs)
                self._events.inc(happening.events)
                self._bytes.inc(happening.size_bytes)
            case t.RunNotArchivable():
                self._failures.labels("gap").inc()
            case t.ArchiveTurnEnded():
                self._succeeded.set(happening.at_seconds)
            case t.DutyFailed(duty=t.ARCHIVE_DUTY):
                self._failures.labels("turn").inc()
            case _:
                pass


class LagHistogram(Collector):
    """A histogram that takes a batch at a time.

    The library's own takes a lock and walks its buckets for each value: 1.6 µs an event, a tenth of what an event costs
    this process in all; this one takes 0.2 (measured).
    """

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._documentation = documentation
        self._counts = [0] * (len(LAG_BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, events: Sequence[Emitted], at_ms: float) -> None:
        """Count the lag of each event that was published at ``at_ms``."""
        for event in events:
            lag = max(0.0, at_ms - event.ts) / 1000
            self._sum += lag
            self._counts[bisect_left(LAG_BUCKETS, lag)] += 1

    def describe(self) -> Iterable[Metric]:
        """Return the metric without values, which names it to the registry."""
        return [HistogramMetricFamily(self._name, self._documentation)]

    def collect(self) -> Iterable[Metric]:
        """Return the metric with its values."""
        bounds = [*map(floatToGoString, LAG_BUCKETS), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        return [HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)]
