"""The calls that are made as often as there are runs: the one that starts a run, and the one that follows it.

Each is one function of the request, and is reached in two ways: by FastAPI's route, which describes it in the OpenAPI
document, and before FastAPI by ``DirectFirst``.  Measured, reading the parameters, matching the route and the layers
around it took FastAPI four times as long as the endpoint of a start takes for everything else, and for a stream a fifth
of what a whole run costs the server.
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
from tailrace.http.caller import caller_of, stream_caller_of
from tailrace.http.problems import answer_to
from tailrace.http.requests import check_idempotency_key, read_json, refuse_ambiguity, start_run
from tailrace.http.services import GetServices, Services
from tailrace.http.stream import EventStream
from tailrace.http.views import view_of
from tailrace.model.run import parse_position

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
        # A repeat is answered by what its key has started, whether or not anybody serves that agent today.
        if not (await _is_known(services, body.agent) or (key is not None and await caller.has_used(key))):
            raise await _not_known(services, body.agent)
        run, is_new = await caller.start(body, key)
        location = f"{request.scope.get('root_path', '')}{PREFIX}/{run.id}"
        return json_answer(view_of(run), status=201 if is_new else 200, headers={"Location": location})

    return start


def stream_endpoint(get_services: GetServices) -> Callable[[Request], EventStream]:
    """Return the endpoint; it raises as ``stream_caller_of`` and ``parse_position`` do."""

    def stream(request: Request) -> EventStream:
        refuse_ambiguity(request)
        caller = stream_caller_of(request, get_services)
        # A browser re-sends the URL it first used, so the header is the newer of the two.
        if last_event_id := request.headers.get("last-event-id"):
            position = parse_position(last_event_id, "/Last-Event-ID")
        else:
            position = parse_position(request.query_params.get("fromSeq", "0"), "/fromSeq")
        return caller.stream(request.path_params["runId"], position)

    return stream


class DirectFirst:
    """ASGI middleware that answers starts and streams itself and passes everything else on."""

    def __init__(self, app: ASGIApp, get_services: GetServices) -> None:
        self._app = app
        self._get_services = get_services
        self._start = start_endpoint(get_services)
        self._stream = stream_endpoint(get_services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, errors as the API answers them, or pass on."""
        # Mounted, the path begins with where; a server that leaves that out is understood by the router.
        prefix = f"{scope.get('root_path', '')}{PREFIX}" if scope["type"] == "http" else ""
        if prefix and scope["method"] == "POST" and scope["path"] == prefix:
            await self._answer_start(Request(scope, receive), send)
        elif prefix and scope["method"] == "GET" and (run_id := _streamed(scope["path"], prefix)) is not None:
            await self._answer_stream(Request({**scope, "path_params": {"runId": run_id}}, receive), send)
        else:
            await self._app(scope, receive, send)

    async def _answer_start(self, request: Request, send: Send) -> None:
        try:
            response = await self._start(request)
        except Exception as error:  # noqa: BLE001 - told, and answered as an unforeseen error
            response = answer_to(error, request, self._get_services)
        await response(request.scope, request.receive, send)

    async def _answer_stream(self, request: Request, send: Send) -> None:
        stream: EventStream | None = None
        try:
            stream = self._stream(request)
            await stream(request.scope, request.receive, send)
        except Exception as error:
            if stream is not None and stream.started:
                raise  # Its status is sent; the server cuts it.
            await answer_to(error, request, self._get_services)(request.scope, request.receive, send)


def _streamed(path: str, prefix: str) -> str | None:
    """Return the id of the run whose stream is asked for, None when the path is another one's."""
    if not (path.startswith(f"{prefix}/") and path.endswith("/stream")):
        return None
    run_id = path[len(prefix) + 1 : -len("/stream")]
    return run_id if run_id and "/" not in run_id else None


class DirectRoute(APIRoute):
    """A route whose endpoint is given the request and nothing else, without FastAPI's reading of parameters."""

    def get_route_handler(self) -> Endpoint:
        """Return the endpoint as it is."""
        handler: Endpoint = self.endpoint
        return handler


def json_answer(document: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer."""
    return Response(orjson.dumps(document), status_code=status, media_type="application/json", headers=headers)


async def _is_known(services: Services, agent: str) -> bool:
    return agent in services.agents or await services.leases.agent_known(agent)


async def _not_known(services: Services, agent: str) -> AgentNotFound:
    known = sorted({*services.agents, *await services.leases.known_agents()})
    hint = f"known are {', '.join(known)}" if known else "none is known; start a worker that has it"
    return AgentNotFound(f"there is no agent {agent!r}; {hint}")
