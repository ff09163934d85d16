"""Spans from the start of a run over its worker to each node, across processes, at a collector of our own."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

import tailrace
from tailrace.errors import SettingsError
from tailrace.exporters.logs import LogExporter
from tailrace.settings import Settings, load_settings
from tailrace.store.database import Database
from tailrace.telemetry import JobStarted, RunCreated
from tailrace.trace import TraceContext, new_trace, parse_traceparent
from tests.outage_support import served
from tests.patience import PATIENCE_SECONDS
from tests.servers import free_port
from tests.write_support import until, value

AGENTS = Path(__file__).parent / "agents.py"
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


class Collector:
    """What a collector was sent, by the name of each span; ``services`` are the processes' names."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.spans: list[Span] = []
        self.services: set[str] = set()

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    def of(self, run_id: str) -> dict[str, Span]:
        """Return the spans of a run by name."""
        return {span.name: span for span in list(self.spans) if _attributes(span)["tailrace.run_id"] == run_id}

    async def until(self, run_id: str, *names: str) -> dict[str, Span]:
        """Wait until all these spans of a run have come, and return every span of it."""

        async def there() -> dict[str, Span] | None:
            found = self.of(run_id)
            return found if found.keys() >= set(names) else None

        return await until(there)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Take OTLP over HTTP inside the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(server.server_address[1])
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield collector
        finally:
            server.shutdown()
            serving.join()


def _attributes(span: Span) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in span.attributes}


async def test_a_trace_goes_from_the_start_over_the_worker_to_each_node(
    settings: Callable[..., Settings], database: Database
) -> None:
    """One trace in two processes: start, execution below it, nodes below that, and a failure where it happened."""
    with collecting() as collector:
        variables = QUICK | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        async with (
            served(settings(), app=None, role="api", **variables, OTEL_SERVICE_NAME="front") as api,
            served(settings(), role="worker", app=AGENTS, **variables),
            served(settings(), role="outbox"),
            tailrace.Client(api.address) as client,
        ):
            good, bad = await client.start("stages"), await client.start("fails")
            for run in (good, bad):
                assert [event.seq async for event in client.stream(run.run_id)]
            spans = await collector.until(good.run_id, "run.start", "run.execute", "node First", "node Second")
            failed = await collector.until(bad.run_id, "run.start", "run.execute", "node Breaks")
        assert collector.services == {"front", "tailrace"}
    start, execute = spans["run.start"], spans["run.execute"]
    assert len({span.trace_id for span in spans.values()}) == 1
    assert start.parent_span_id == b""
    assert execute.parent_span_id == start.span_id
    for name in ("node First", "node Second"):
        assert spans[name].parent_span_id == execute.span_id
        assert execute.start_time_unix_nano <= spans[name].start_time_unix_nano
        assert spans[name].end_time_unix_nano <= execute.end_time_unix_nano
        assert spans[name].status.code == Status.STATUS_CODE_OK
    assert (start.kind, execute.kind) == (Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER)
    assert failed["node Breaks"].status.code == Status.STATUS_CODE_ERROR
    assert failed["node Breaks"].status.message == "ValueError"
    assert failed["run.execute"].status.code == Status.STATUS_CODE_ERROR
    assert failed["run.start"].trace_id != start.trace_id
    kept = await value(database, "select traceparent from tailrace.runs where id = $1", good.run_id)
    assert kept == f"00-{start.trace_id.hex()}-{start.span_id.hex()}-01"


async def test_a_collector_that_is_away_costs_nothing_and_without_one_nothing_is_kept(
    settings: Callable[..., Settings], database: Database
) -> None:
    """Runs go their way, and a process that is asked to stop stops."""
    away = f"http://127.0.0.1:{free_port()}"
    for variables in ({"OTEL_EXPORTER_OTLP_ENDPOINT": away, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}, {}):
        async with (
            served(settings(), app=AGENTS, role="all", **variables) as server,
            tailrace.Client(server.address) as client,
        ):
            run = await client.start("stages")
            types = [event.type async for event in client.stream(run.run_id)]
            assert types[-1] == "RunFinished"
            server.process.terminate()
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await server.process.wait() == 0
        kept = await value(database, "select traceparent from tailrace.runs where id = $1", run.run_id)
        assert (kept is not None) is bool(variables)


def test_log_lines_carry_the_ids_where_there_is_a_span() -> None:
    """So that a log leads to its trace; where nothing is traced, the fields are not there."""
    written = io.StringIO()
    logs = LogExporter(level="info", log_events=False, stream=written)
    trace = TraceContext("a" * 32, "b" * 16)
    logs(RunCreated("r", "agent", trace))
    logs(JobStarted("r", "agent", 1, False, trace))
    logs(RunCreated("r", "agent"))
    first, second, third = map(json.loads, written.getvalue().splitlines())
    for line in (first, second):
        assert (line["trace_id"], line["span_id"], line["run_id"]) == ("a" * 32, "b" * 16, "r")
    assert "trace_id" not in third


NO_TRACE, NO_SPAN = f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'1' * 32}-{'0' * 16}-01"


@pytest.mark.parametrize("text", [None, "", "x", NO_TRACE, NO_SPAN, NO_SPAN.replace("00-", "ff-", 1)])
def test_what_is_no_traceparent_is_no_trace(text: str | None) -> None:
    """A row that somebody wrote by hand must not stop a worker."""
    assert parse_traceparent(text) is None
    place = new_trace()
    assert parse_traceparent(place.traceparent) == place


def test_the_endpoint_is_the_standard_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours wins over it; what is no URL is refused by name."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://standard:4318")
    assert load_settings().otlp_endpoint == "http://standard:4318"
    monkeypatch.setenv("TAILRACE_OTLP_ENDPOINT", "http://ours:4318")
    assert load_settings().otlp_endpoint == "http://ours:4318"
    monkeypatch.setenv("TAILRACE_OTLP_ENDPOINT", "ours:4318")
    with pytest.raises(SettingsError, match="TAILRACE_OTLP_ENDPOINT"):
        load_settings()
