"""Liveness, readiness and metrics: what a process of any role serves."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from tailrace.access.principal import Scope
from tailrace.errors import DatabaseUnavailable, NotStarted, TailraceError
from tailrace.exporters.prometheus import CONTENT_TYPE
from tailrace.http.caller import Caller, caller_with
from tailrace.http.problems import problem
from tailrace.http.services import GetServices, Services
from tailrace.http.views import Problem
from tailrace.store.migrate import require_not_behind


def probes(get_services: GetServices) -> APIRouter:
    """Return the routes ``/healthz``, ``/readyz`` and ``/metrics``."""
    router = APIRouter(tags=["operations"])
    operator = caller_with(get_services, Scope.ADMIN)

    # Monitors ask by HEAD as well; a server sends the same head, and no body.
    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", summary="Say whether the process is alive", response_class=Response)
    async def healthz() -> Response:
        """Answer, and ask neither the database nor the bus: for liveness probes. Needs no key."""
        return _json({"status": "ok"})

    @router.head("/readyz", include_in_schema=False)
    @router.get(
        "/readyz",
        summary="Say whether the process can do its work",
        response_class=Response,
        responses={503: {"model": Problem, "description": "Something is not there; the detail says what."}},
    )
    async def readyz() -> Response:
        """Check that the database can be written, its schema fits, and the bus is there. Needs no key."""
        try:
            services = get_services()
            # Upgraded under this process, the database still serves it: were it not ready now, a rolling upgrade
            # would take every process out of service at once (docs/adr/0025).
            schema = await require_not_behind(services.database)
            # Every role writes: the API starts runs, workers append, the outbox marks.
            await services.database.require_writable()
            await services.bus.check()
        except TailraceError as error:
            return problem(503, _not_ready(get_services, error), kind="not-ready", headers={"Retry-After": "1"})
        found = "ok" if schema.state == "current" else schema.state
        return _json({"status": "ready", "checks": {"database": "ok", "schema": found, "bus": "ok"}})

    @router.get(
        "/metrics",
        summary="Give the metrics, for Prometheus",
        response_class=Response,
        responses={
            401: {"model": Problem, "description": "A key is needed, and this is none that counts."},
            403: {"model": Problem, "description": "The key has not the scope `admin`."},
        },
    )
    async def metrics(caller: Caller = operator) -> Response:
        """Return the metrics of all processes on this port, as text. Needs the scope `admin`."""
        services = caller.services
        text = await _metrics(services)
        if services.siblings is not None:
            text = await services.siblings.metrics(text)
        return Response(text, media_type=CONTENT_TYPE)

    return router


def _not_ready(get_services: GetServices, error: TailraceError) -> str:
    try:
        is_public = get_services().credentials.configured
    except NotStarted:
        is_public = False
    # Who may ask without a key is told what is away, not where it is and under which name we knock.
    return f"not ready: {type(error).__name__ if is_public else error}"


async def _metrics(services: Services) -> bytes:
    try:
        backlog, oldest = await services.outbox.backlog()
        stalled = await services.runs.stalled(services.settings.stall_seconds)
        restored = await services.archives.restored_events()
    except DatabaseUnavailable:
        # What this process has counted is worth having just now; the gauges of the database are left as they were.
        return services.metrics.render()
    services.metrics.observe_database(
        backlog=backlog, oldest_unpublished_seconds=oldest, stalled=stalled, restored_events=restored
    )
    return services.metrics.render()


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
