"""Liveness, readiness and metrics: what a process of any role serves."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from tailrace.errors import DatabaseUnavailable, TailraceError
from tailrace.exporters.prometheus import CONTENT_TYPE
from tailrace.http.problems import problem
from tailrace.http.services import GetServices, Services
from tailrace.http.views import Problem
from tailrace.store.migrate import require_current


def probes(get_services: GetServices) -> APIRouter:
    """Return the routes ``/healthz``, ``/readyz`` and ``/metrics``."""
    router = APIRouter(tags=["operations"])

    @router.get("/healthz", summary="Whether the process is alive", response_class=Response)
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @router.get(
        "/readyz",
        summary="Whether database, schema and bus are there",
        response_class=Response,
        responses={503: {"model": Problem, "description": "Something is not there; the detail says what."}},
    )
    async def readyz() -> Response:
        try:
            services = get_services()
            await require_current(services.database)
            await services.bus.check()
        except TailraceError as error:
            return problem(503, f"not ready: {error}", kind="not-ready", headers={"Retry-After": "1"})
        return _json({"status": "ready", "checks": {"database": "ok", "schema": "ok", "bus": "ok"}})

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(await _metrics(get_services()), media_type=CONTENT_TYPE)

    return router


async def _metrics(services: Services) -> bytes:
    try:
        backlog, oldest = await services.outbox.backlog()
        stalled = await services.runs.stalled(services.settings.stall_seconds)
    except DatabaseUnavailable:
        # What this process has counted is worth having just now; the gauges of the database are left as they were.
        return services.metrics.render()
    services.metrics.observe_database(backlog=backlog, oldest_unpublished_seconds=oldest, stalled=stalled)
    return services.metrics.render()


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
