"""The caller of an endpoint: the one place that asks for keys, and the one way from an endpoint to a run.

An endpoint says which scope it needs and is given a ``Caller``.  Whatever a caller reaches by a run's id is looked up
under its tenant, so another tenant's run is answered as one that does not exist, by the same statements and texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import Depends, Request

from tailrace.access.principal import EVERYBODY, Principal, Scope
from tailrace.errors import KeyMisplaced, NotAuthenticated, NotStarted, ScopeMissing
from tailrace.http.requests import StartRun
from tailrace.http.services import GetServices, Services
from tailrace.http.stream import EventStream
from tailrace.model.run import DEFAULT_TENANT, RunRow, RunState

TOKEN_PARAMETER = "token"  # noqa: S105 - its name


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and the running App as far as it is theirs; methods raise as those of ``Runs`` and ``Orchestrator``."""

    principal: Principal
    get_services: GetServices

    @property
    def services(self) -> Services:
        """The parts of the App, for what belongs to no tenant."""
        return self.get_services()

    async def start(self, body: StartRun, idempotency_key: str | None) -> tuple[RunRow, bool]:
        """Start a run of theirs and return it and whether it is new."""
        return await self.services.orchestrator.start(
            body.agent,
            body.input,
            run_id=body.run_id,
            idempotency_key=idempotency_key,
            tenant=self.principal.tenant or DEFAULT_TENANT,
        )

    async def has_used(self, idempotency_key: str) -> bool:
        """Return whether they have started a run with this key."""
        return await self.services.runs.key_used(idempotency_key, self.principal.tenant or DEFAULT_TENANT)

    async def run(self, run_id: str) -> RunRow:
        """Return a run of theirs."""
        return await self.services.runs.get(run_id, tenant=self.principal.tenant)

    async def runs(
        self, *, state: RunState | None, agent: str | None, limit: int, cursor: str | None
    ) -> tuple[Sequence[RunRow], str | None]:
        """Return a page of their runs and the cursor of the next."""
        return await self.services.runs.list(
            state=state, agent=agent, limit=limit, cursor=cursor, tenant=self.principal.tenant
        )

    async def cancel(self, run_id: str) -> RunRow:
        """Cancel a run of theirs and return it."""
        await self.services.orchestrator.cancel(run_id, tenant=self.principal.tenant)
        return await self.run(run_id)

    def stream(self, run_id: str, position: int) -> EventStream:
        """Return the stream of a run of theirs; it ends when their key is revoked."""
        return EventStream(self.get_services, run_id, position, self.principal)

    async def stream_token(self, run_id: str) -> tuple[str, datetime]:
        """Return a token for the stream of a run of theirs, and until when it opens it."""
        run = await self.run(run_id)
        return self.services.credentials.issue_token(self.principal, run.id)


def caller_with(get_services: GetServices, scope: Scope) -> Any:
    """Return the dependency that gives an endpoint its ``Caller``.

    It raises ``NotAuthenticated``, ``ScopeMissing`` or ``KeyMisplaced``.
    """

    async def caller(request: Request) -> Caller:
        return caller_of(request, get_services, scope)

    return Depends(caller)


def caller_of(request: Request, get_services: GetServices, scope: Scope) -> Caller:
    """Return the caller of a request; errors are those of ``caller_with``'s dependency."""
    principal = get_services().credentials.of_key(_bearer(request))
    return _checked(Caller(principal, get_services), scope)


def stream_caller_of(request: Request, get_services: GetServices) -> Caller:
    """Return the caller of a stream, which is also opened by a token in the URL; errors as above."""
    try:
        credentials = get_services().credentials
    except NotStarted:
        # The stream answers that itself, in the way that lets EventSource come again; it has nothing else to give.
        return Caller(EVERYBODY, get_services)
    token = request.query_params.get(TOKEN_PARAMETER)
    if token is None or "authorization" in request.headers:
        return _checked(Caller(credentials.of_key(_bearer(request)), get_services), Scope.RUNS_READ)
    if len(request.query_params.getlist(TOKEN_PARAMETER)) > 1:
        raise NotAuthenticated("the token was sent twice")
    run_id, resuming = request.path_params["runId"], bool(request.headers.get("last-event-id"))
    return Caller(credentials.of_token(token, run_id, resuming=resuming), get_services)


def _checked(caller: Caller, scope: Scope) -> Caller:
    if not caller.principal.may(scope):
        raise ScopeMissing(f"this key has not the scope {scope}, which the call needs")
    return caller


def _bearer(request: Request) -> str | None:
    """Return what the one ``Authorization`` header holds after ``Bearer``, empty when it is of another kind."""
    found = request.headers.getlist("authorization")
    if not found:
        return None
    if len(found) > 1:
        raise KeyMisplaced(
            "the Authorization header was sent more than once; which of them counts is not for us to say"
        )
    scheme, _, key = found[0].partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
