"""Spans over OTLP, with the OpenTelemetry SDK (`pip install 'tailrace[otel]'`).

The spans are those that the parts of Tailrace tell of, with their own ids; the SDK batches and sends them in a thread
of its own, drops what a collector that is away does not take, and reads its own standard variables
(`OTEL_SERVICE_NAME`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_BSP_…`).
"""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from tailrace.telemetry import Happening
from tailrace.trace import Span, TraceContext

# What the start of a run produces, a worker consumes; the nodes are within.
KINDS = {"run.start": SpanKind.PRODUCER, "run.execute": SpanKind.CONSUMER}


class OtelExporter:
    """Sends spans to a collector; ``endpoint`` is its root, as http://127.0.0.1:4318."""

    def __init__(self, endpoint: str, *, version: str) -> None:
        given = Resource.create()
        # The SDK's own default says nothing; OTEL_SERVICE_NAME, when it is set, says what the operator wants.
        unnamed = str(given.attributes.get("service.name", "")).startswith("unknown_service")
        self._resource = given.merge(Resource({"service.name": "tailrace"})) if unnamed else given
        self._scope = InstrumentationScope("tailrace", version)
        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))

    def __call__(self, happening: Happening) -> None:
        """Queue a span; it is sent later, by another thread."""
        if isinstance(happening, Span):
            self._processor.on_end(self._readable(happening))

    def close(self) -> None:
        """Send what is queued, in bounded time, and stop; blocks meanwhile."""
        self._processor.shutdown()  # type: ignore[no-untyped-call] # the SDK's

    def _readable(self, span: Span) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            context=_context(span.context, remote=False),
            parent=_context(span.parent, remote=span.name == "run.execute") if span.parent is not None else None,
            resource=self._resource,
            attributes={"tailrace.run_id": span.run_id, "tailrace.agent": span.agent},
            kind=KINDS.get(span.name, SpanKind.INTERNAL),
            instrumentation_scope=self._scope,
            status=Status(StatusCode.OK) if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=span.begun_ns,
            end_time=span.ended_ns,
        )


def _context(of: TraceContext, *, remote: bool) -> SpanContext:
    return SpanContext(int(of.trace_id, 16), int(of.span_id, 16), remote, TraceFlags(TraceFlags.SAMPLED))
