"""The call that starts a run: the one endpoint that is called as often as there are runs.

It is one function of the request, and is reached in two ways: by FastAPI's route, which describes it in the OpenAPI
document, and before FastAPI by ``StartsFirst``.  Measured, reading the parameters, matching the route and the layers
around it took FastAPI four times as long as the endpoint takes for everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrace.access.principal import Scope as KeyScope
from tailrace.errors import AgentNotFound
from tailrace.http.caller import caller_of
from tailrace.http.problems import answer_to
from tailrace.http.requests import check_idempotency_key, read_json, refuse_ambiguity, start_run
from tailrace.http.services import GetServices, Services
from tailrace.http.views import view_of

PREFIX = "/api/agents/runs"
Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


def start_endpoint(get_services: GetServices) -> Endpoint:
    """Return the endpoint; it raises as ``caller_of``, ``http.requests`` and ``Orchestrator.start`` do."""

    async def start(request: Request) -> Response:
        refuse_ambiguity(request)
        caller = caller_of(request, get_services, KeyScope.RUNS_WRITE)
        services = caller.services
        settings = services.settings
        body = start_run(await read_json(request, settings.max_body_bytes, settings.request_seconds))
        key = check_idempotency_key(request.headers.get("idempotency-key"))
        await _require_agent(services, body.agent)
        run, is_new = await caller.start(body, key)
        location = f"{request.scope.get('root_path', '')}{PREFIX}/{run.id}"
        return json_answer(view_of(run), status=201 if is_new else 200, headers={"Location": location})

    return start


class StartsFirst:
    """ASGI middleware that answers starts itself and passes everything else on."""

    def __init__(self, app: ASGIApp, get_services: GetServices) -> None:
        self._app = app
        self._get_services = get_services
        self._endpoint = start_endpoint(get_services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, errors as the API answers them, or pass on."""
        if not _is_start(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await self._endpoint(request)
        except Exception as error:  # noqa: BLE001 - told, and answered as an unforeseen error
            response = answer_to(error, request, self._get_services)
        await response(scope, receive, send)


def _is_start(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["method"] != "POST":
        return False
    # Mounted, the path begins with where; a server that leaves that out is understood by the router.
    is_start: bool = scope["path"] == f"{scope.get('root_path', '')}{PREFIX}"
    return is_start


class DirectRoute(APIRoute):
    """A route whose endpoint is given the request and nothing else, without FastAPI's reading of parameters."""

    def get_route_handler(self) -> Endpoint:
        """Return the endpoint as it is."""
        handler: Endpoint = self.endpoint
        return handler


def json_answer(document: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer."""
    return Response(orjson.dumps(document), status_code=status, media_type="application/json", headers=headers)


async def _require_agent(services: Services, agent: str) -> None:
    if agent not in services.agents and not await services.leases.agent_known(agent):
        known = sorted({*services.agents, *await services.leases.known_agents()})
        hint = f"known are {', '.join(known)}" if known else "none is known; start a worker that has it"
        raise AgentNotFound(f"there is no agent {agent!r}; {hint}")
