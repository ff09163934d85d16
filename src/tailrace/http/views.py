"""What goes out: the shapes of the answers, for the client and for OpenAPI, and how rows become them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from tailrace.model.event import Event
from tailrace.model.run import RunRow, RunState


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="ignore")


class RunErrorView(_View):
    """Why a run failed."""

    error_class: Annotated[str, Field(alias="class", description="The error's class.")]
    message: str


class RunSummary(_View):
    """A run in a list; times are RFC 3339 UTC."""

    run_id: str
    agent: str
    state: RunState
    last_seq: Annotated[int, Field(description="Seq of the newest event persisted.")]
    next_seq: Annotated[int, Field(description="Seq of the next event to be published.")]
    backlog: Annotated[int, Field(description="Events persisted and not yet published.")]
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cancel_requested_at: datetime | None = None


class RunView(RunSummary):
    """A run."""

    input: Annotated[Any, Field(description="What the run was started with.", repr=False)] = None
    output: Annotated[Any, Field(description="What the agent returned.", repr=False)] = None
    error: Annotated[RunErrorView | None, Field(description="Why the run failed, when it did.")] = None


class RunList(_View):
    """A page of runs, newest first; ``next_cursor`` is null on the last one."""

    runs: list[RunSummary]
    next_cursor: str | None


class EventPage(_View):
    """A page of published events; ask again with ``next_from_seq`` for what follows."""

    events: list[Event]
    next_from_seq: int


class StreamToken(_View):
    """What opens one run's stream for an ``EventSource``, as `…/stream?token=`."""

    token: Annotated[str, Field(repr=False)]
    expires_at: Annotated[datetime, Field(description="Until when it opens the stream for the first time.")]


class ProblemError(_View):
    """One place of a request that is wrong."""

    pointer: Annotated[str, Field(description="RFC 6901 JSON pointer, or /name of a query value or header.")]
    detail: str


class Problem(_View):
    """RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[ProblemError] | None = None
    earliest_from_seq: Annotated[
        int | None, Field(description="Of `position-gone`: the first position from which the rest can still be had.")
    ] = None


def summary_of(run: RunRow) -> dict[str, Any]:
    """Return a run as a list shows it."""
    return {
        "runId": run.id,
        "agent": run.agent,
        "state": run.state,
        "lastSeq": run.last_seq,
        "nextSeq": run.next_seq,
        "backlog": run.backlog,
        "createdAt": _time(run.created_at),
        "updatedAt": _time(run.updated_at),
        "startedAt": _time(run.started_at),
        "finishedAt": _time(run.finished_at),
        "cancelRequestedAt": _time(run.cancel_requested_at),
    }


def view_of(run: RunRow) -> dict[str, Any]:
    """Return a run with its input and output, copied as the JSON text they are."""
    view = summary_of(run)
    view["input"] = orjson.Fragment(run.input) if run.input is not None else None
    view["output"] = orjson.Fragment(run.output) if run.output is not None else None
    if run.error_class is not None:
        view["error"] = {"class": run.error_class, "message": run.error_message or ""}
    return view


def token_view(token: str, expires_at: datetime) -> dict[str, Any]:
    """Return the answer to a request for a stream token."""
    return {"token": token, "expiresAt": _time(expires_at)}


def _time(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
