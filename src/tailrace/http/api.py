"""The HTTP API: runs, their events, their stream."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from tailrace.access.principal import Scope
from tailrace.errors import Fault, InvalidInput
from tailrace.http.caller import Caller, caller_with
from tailrace.http.console.pages import console
from tailrace.http.direct import PREFIX, DirectRoute, json_answer, start_endpoint, stream_endpoint
from tailrace.http.openapi import describe
from tailrace.http.probes import probes
from tailrace.http.problems import answer_with_problems
from tailrace.http.requests import StartRun, parse_count, refuse_ambiguity
from tailrace.http.services import GetServices
from tailrace.http.stream import EventStream
from tailrace.http.views import EventPage, Problem, RunList, RunView, StreamToken, summary_of, token_view, view_of
from tailrace.model.event import encode
from tailrace.model.run import RunState, parse_position

RUNS_DEFAULT, RUNS_MAX = 50, 500
EVENTS_DEFAULT, EVENTS_MAX = 100, 1000
# A page of large events ends early; its nextFromSeq says where.
EVENTS_MAX_BYTES = 4 * 2**20

_POSITION = Query(
    alias="fromSeq",
    description="The last seq already processed; events with a greater one follow.",
)
_IDEMPOTENCY_KEY = {"name": "idempotency-key", "in": "header", "required": False}
_RunId = Annotated[str, Path(alias="runId", description="The run's id.")]
_STREAM_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "`id` is the seq, `data` the canonical event."},
    204: {"description": "The run has ended and the client has everything."},
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "A key stands where it must not: in the URL, or twice.",
        401: "A key is needed, and none came that counts.",
        403: "The key has not the scope, or the request came from another site's page.",
        404: "There is no such run or agent.",
        409: "It does not fit the present state.",
        410: "The events after this position are gone; `earliestFromSeq` says from where the rest can be had.",
        413: "The body is too large.",
        422: "Something in the request is not acceptable; `errors` says where.",
        503: "Trouble that passes: try again.",
    }.items()
}


def build_api(get_services: GetServices, *, version: str, with_runs: bool = True) -> FastAPI:
    """Return the ASGI application.

    :param get_services: gives the parts of the running App, or raises ``NotStarted``.
    :param with_runs: serve the API of runs and the console as well as the probes.
    """
    api = FastAPI(
        title="Tailrace",
        version=version,
        summary="Durable, resumable event streams for AI-agent runs.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    routers = [probes(get_services)]
    if with_runs:
        routers += [_writing(get_services), _reading(get_services), console()]
    answer_with_problems(api, get_services, [route for router in routers for route in router.routes])
    for router in routers:
        api.include_router(router)
    generate = api.openapi
    limits = {PREFIX: RUNS_MAX, f"{PREFIX}/{{runId}}/events": EVENTS_MAX}
    api.openapi = lambda: describe(generate(), limits=limits)  # type: ignore[method-assign] # FastAPI's own way to extend it
    return api


def _writing(get_services: GetServices) -> APIRouter:
    router = _router()
    writer = caller_with(get_services, Scope.RUNS_WRITE)

    start_body = {"content": {"application/json": {"schema": StartRun.model_json_schema()}}, "required": True}
    router.add_api_route(
        "",
        start_endpoint(get_services),
        methods=["POST"],
        summary="Start a run",
        description="Answers 201 with the run once it and its RunStarted are committed, and 200 with the same run when "
        "the same `Idempotency-Key` comes with the same body. Needs the scope `runs:write`.",
        status_code=201,
        response_model=None,
        responses=_answers({200: RunView, 201: RunView}, 404, 409, 413, 422, 503),
        openapi_extra={"parameters": [_IDEMPOTENCY_KEY], "requestBody": start_body},
        route_class_override=DirectRoute,
    )

    @router.post(
        "/{runId}/cancel",
        summary="Cancel a run",
        status_code=202,
        response_model=None,
        responses=_answers({202: RunView}, 404, 409, 503),
    )
    async def cancel(run_id: _RunId, caller: Caller = writer) -> Response:
        """End a queued run at once, a started one when its agent has let go. Needs the scope `runs:write`."""
        return json_answer(view_of(await caller.cancel(run_id)), status=202)

    return router


def _reading(get_services: GetServices) -> APIRouter:
    router = _router()
    reader = caller_with(get_services, Scope.RUNS_READ)

    @router.get("", summary="List runs, newest first", responses=_answers({200: RunList}, 422, 503))
    async def list_runs(
        state: str | None = None,
        agent: str | None = None,
        limit: str | None = None,
        cursor: str | None = None,
        caller: Caller = reader,
    ) -> Response:
        """Return a page of runs, without their inputs and outputs. Needs the scope `runs:read`."""
        runs, next_cursor = await caller.runs(
            state=_state(state),
            agent=_agent(agent),
            limit=parse_count(limit, "/limit", default=RUNS_DEFAULT, maximum=RUNS_MAX),
            cursor=cursor or None,
        )
        return json_answer({"runs": [summary_of(run) for run in runs], "nextCursor": next_cursor})

    @router.get("/{runId}", summary="Show a run", responses=_answers({200: RunView}, 404, 503))
    async def show(run_id: _RunId, caller: Caller = reader) -> Response:
        """Return the run, its input and its output. Needs the scope `runs:read`."""
        return json_answer(view_of(await caller.run(run_id)))

    _events(router, reader)

    @router.post(
        "/{runId}/stream-token",
        summary="Make a token that opens this run's stream",
        responses=_answers({200: StreamToken}, 404, 503),
    )
    async def stream_token(run_id: _RunId, caller: Caller = reader) -> Response:
        """Make a short-lived token, for an `EventSource` cannot send a key. Needs the scope `runs:read`."""
        document = token_view(*await caller.stream_token(run_id))
        return json_answer(document, headers={"Cache-Control": "no-store"})

    _stream(router, get_services)
    return router


def _router() -> APIRouter:
    unambiguous = [Depends(_refuse_ambiguity)]
    return APIRouter(prefix=PREFIX, tags=["runs"], default_response_class=Response, dependencies=unambiguous)


def _events(router: APIRouter, reader: Any) -> None:
    @router.get(
        "/{runId}/events",
        summary="Read published events as JSON",
        responses=_answers({200: EventPage}, 404, 410, 422, 503),
    )
    async def events(
        run_id: _RunId,
        from_seq: Annotated[str, _POSITION] = "0",
        limit: str | None = None,
        caller: Caller = reader,
    ) -> Response:
        """Return a page of published events; ask again from `nextFromSeq` for what follows.

        A page of large events ends early. Needs the scope `runs:read`.
        """
        position = parse_position(from_seq, "/fromSeq")
        count = parse_count(limit, "/limit", default=EVENTS_DEFAULT, maximum=EVENTS_MAX)
        run = await caller.run(run_id)
        page = await caller.services.events.page(
            run.id, after=position, upto=run.next_seq - 1, limit=count, max_bytes=EVENTS_MAX_BYTES
        )
        text = b",".join([encode(event) for event in page])
        next_from_seq = page[-1].seq if page else position
        return Response(b'{"events":[%b],"nextFromSeq":%d}' % (text, next_from_seq), media_type="application/json")


def _stream(router: APIRouter, get_services: GetServices) -> None:
    endpoint = stream_endpoint(get_services)

    @router.get(
        "/{runId}/stream",
        summary="Follow a run's events, live, as Server-Sent Events",
        responses=_STREAM_ANSWERS | _answers({}, 404, 409, 410, 422),
    )
    async def stream(  # what it reads of the request is described here, and read by the endpoint
        request: Request,
        run_id: _RunId,  # noqa: ARG001
        from_seq: Annotated[str, _POSITION] = "0",  # noqa: ARG001
        last_event_id: Annotated[str | None, Header(description="Wins over `fromSeq`.")] = None,  # noqa: ARG001
        token: Annotated[str | None, Query(description="Of `stream-token`, instead of a key.")] = None,  # noqa: ARG001
    ) -> EventStream:
        """Send the published events after the position, then live ones, to the terminal event.

        Each has its seq as `id:` and the canonical event on one line as `data:`, and no `event:`; a comment, `: ping`,
        breaks silence. Trouble that passes is answered 200 with `retry:` and an end, because an `EventSource` gives up
        for ever on any other status. Needs the scope `runs:read`, or a stream token.
        """
        return endpoint(request)


async def _refuse_ambiguity(request: Request) -> None:
    refuse_ambiguity(request)


def _state(text: str | None) -> RunState | None:
    if not text:
        return None
    try:
        return RunState(text)
    except ValueError:
        allowed = ", ".join(RunState)
        raise InvalidInput("the state is not acceptable", [Fault("/state", f"must be one of {allowed}")]) from None


def _agent(text: str | None) -> str | None:
    if not text:
        return None
    if "\x00" in text:
        raise InvalidInput("the agent is not acceptable", [Fault("/agent", "contains U+0000")])
    return text


def _answers(models: dict[int, type[BaseModel]], *refusals: int) -> dict[int | str, dict[str, Any]]:
    answers: dict[int | str, dict[str, Any]] = {status: {"model": model} for status, model in models.items()}
    return answers | {status: _REFUSALS[status] for status in sorted({400, 401, 403, *refusals})}
