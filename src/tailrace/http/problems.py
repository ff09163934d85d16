"""Errors over HTTP: RFC 9457 problem documents, mapped from the error tree in one table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from tailrace import errors as e
from tailrace.errors import Fault
from tailrace.http.services import GetServices
from tailrace.telemetry import RefusalReason, RequestFailed, RequestRefused

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "1"
# A hostile request gets no longer answer than a clumsy one: this many places, and this much of each text.
FAULTS_MAX = 20
TEXT_MAX = 1000

# The first class that fits, from the most to the least particular.
STATUS: tuple[tuple[type[e.TailraceError], HTTPStatus], ...] = (
    (e.IdempotencyConflict, HTTPStatus.UNPROCESSABLE_ENTITY),
    (e.InvalidInput, HTTPStatus.UNPROCESSABLE_ENTITY),
    (e.NotAuthenticated, HTTPStatus.UNAUTHORIZED),
    (e.KeyMisplaced, HTTPStatus.BAD_REQUEST),
    (e.AccessRefused, HTTPStatus.FORBIDDEN),
    (e.BodyTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (e.BodyTooSlow, HTTPStatus.REQUEST_TIMEOUT),
    (e.UnsupportedBody, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (e.NotFound, HTTPStatus.NOT_FOUND),
    (e.Conflict, HTTPStatus.CONFLICT),
    (e.PositionGone, HTTPStatus.GONE),
    (e.Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (e.SchemaMismatch, HTTPStatus.SERVICE_UNAVAILABLE),
)
# What is counted as turned away, and as what.
REFUSED_AS: dict[type[e.TailraceError], RefusalReason] = {
    e.NotAuthenticated: "not-authenticated",
    e.ScopeMissing: "scope-missing",
    e.KeyMisplaced: "key-misplaced",
    e.CrossSiteRefused: "cross-site",
}
# How the types of refusals below the application end; the phrases of statuses change from one Python to the next.
BELOW: dict[HTTPStatus, str] = {
    HTTPStatus.BAD_REQUEST: "bad-request",
    HTTPStatus.REQUEST_TIMEOUT: "request-timeout",
    HTTPStatus.REQUEST_URI_TOO_LONG: "request-uri-too-long",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "request-header-fields-too-large",
}
# What a status asks for beside the document.
HEADERS: dict[HTTPStatus, dict[str, str]] = {
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": RETRY_AFTER_SECONDS},
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"},
    HTTPStatus.REQUEST_TIMEOUT: {"Connection": "close"},
}


def problem(
    status: int,
    detail: str,
    *,
    kind: str | None = None,
    faults: Sequence[Fault] = (),
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Response:
    """Return a problem document; ``kind`` ends its type URI, ``about:blank`` without.

    :param more: members of its own kind.
    """
    document: dict[str, Any] = {
        "type": f"urn:tailrace:problem:{kind}" if kind else "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail[:TEXT_MAX],
        **(more or {}),
    }
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        document["errors"] = [
            {"pointer": fault.pointer[:TEXT_MAX], "detail": fault.detail[:TEXT_MAX]} for fault in faults[:FAULTS_MAX]
        ]
    return Response(orjson.dumps(document), status_code=status, media_type=MEDIA_TYPE, headers=headers)


def problem_of(error: e.TailraceError) -> Response:
    """Return the problem document of one of our errors."""
    status = next((status for kind, status in STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    headers = HEADERS.get(status)
    faults = error.faults if isinstance(error, e.InvalidInput) else ()
    more = {"earliestFromSeq": error.earliest} if isinstance(error, e.PositionGone) else None
    return problem(status, str(error), kind=type_of(type(error)), faults=faults, headers=headers, more=more)


def type_of(kind: type[e.TailraceError]) -> str:
    """Return what the type URI of an error's problem document ends in: the name of its class, with hyphens."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


def tell_refused(error: e.TailraceError, get_services: GetServices) -> None:
    """Tell that a request was turned away, if that is what the error says, and there is somebody to tell."""
    if (reason := REFUSED_AS.get(type(error))) is not None:
        with suppress(e.NotStarted):
            get_services().telemetry.tell(RequestRefused(reason))


def answer_with_problems(api: FastAPI, get_services: GetServices, routes: Sequence[BaseRoute]) -> None:
    """Let every error of ``api``, foreseen or not, be answered with a problem document.

    :param routes: what it serves, for ``Allow``; FastAPI keeps it in a shape of its own.
    """

    @api.exception_handler(e.TailraceError)
    async def ours(request: Request, error: e.TailraceError) -> Response:
        return answer_to(error, request, get_services)

    @api.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        faults = [Fault(_pointer(found["loc"]), str(found["msg"])) for found in error.errors()]
        return problem(
            HTTPStatus.UNPROCESSABLE_ENTITY, "the request is not acceptable", kind="invalid-input", faults=faults
        )

    @api.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> Response:
        detail = f"{request.method} {request.url.path} is not served here; GET /openapi.json lists what is"
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (methods := _methods_at(routes, request)):
            headers["Allow"] = ", ".join(methods)
        return problem(error.status_code, detail, headers=headers)

    @api.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return answer_to(error, request, get_services)

    @api.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        return answer_to(error, request, get_services)


def answer_to(error: Exception, request: Request, get_services: GetServices) -> Response:
    """Return the problem document for what an endpoint has raised; what nobody foresaw is told as well."""
    match error:
        case e.TailraceError():
            tell_refused(error, get_services)
            return problem_of(error)
        case ClientDisconnect():
            # In the midst of its body; there is nobody to read this, and nothing for the log.
            return problem(HTTPStatus.BAD_REQUEST, "the body did not come to its end")
    get_services().telemetry.tell(RequestFailed(request.method, request.url.path, error))
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an unforeseen error; the server's log has it as request.failed")


def describe_problems(document: dict[str, Any]) -> dict[str, Any]:
    """Correct what FastAPI writes into the OpenAPI document about refusals, add the key, and return the document.

    It gives every answer the media type of the good one, and names refusals of its own that are never sent.
    """
    for item in document["paths"].values():
        for operation in item.values():
            answers = operation["responses"]
            for status in [status for status in answers if int(status) >= HTTPStatus.BAD_REQUEST]:
                content = answers[status].get("content", {})
                if "HTTPValidationError" in str(content):
                    del answers[status]
                elif "application/json" in content:
                    answers[status]["content"] = {MEDIA_TYPE: content["application/json"]}
    document.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    # Needed where keys are configured, and else not looked at.
    document["security"] = [{}, {"key": []}]
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
    return document


def _methods_at(routes: Sequence[BaseRoute], request: Request) -> list[str]:
    """Return all methods that a path is served by; the router names those of its first route alone."""
    served = (route for route in routes if route.matches(request.scope)[0] != Match.NONE)
    return sorted({method for route in served if isinstance(route, Route) for method in route.methods or ()})


def _pointer(location: Sequence[object]) -> str:
    # FastAPI puts where it looked ("query", "body") first.
    return "".join(f"/{part}" for part in location[1:])
