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
    message: Annotated[str, Field(description="Its text.")]


class RunSummary(_View):
    """A run in a list; times are RFC 3339 UTC."""

    run_id: Annotated[str, Field(description="The run's id.")]
    agent: Annotated[str, Field(description="Name of its agent.")]
    state: Annotated[RunState, Field(description="Where it is.")]
    last_seq: Annotated[int, Field(description="Seq of the newest event persisted.")]
    next_seq: Annotated[int, Field(description="Seq of the next event to be published.")]
    backlog: Annotated[int, Field(description="Events persisted and not yet published.")]
    created_at: Annotated[datetime, Field(description="When it was created.")]
    updated_at: Annotated[datetime, Field(description="When its row last changed.")]
    started_at: Annotated[datetime | None, Field(description="When a worker first began it.")] = None
    finished_at: Annotated[datetime | None, Field(description="When it ended, in whichever terminal state.")] = None
    cancel_requested_at: Annotated[datetime | None, Field(description="When somebody asked to cancel it.")] = None


class RunView(RunSummary):
    """A run."""

    input: Annotated[Any, Field(description="What the run was started with.", repr=False)] = None
    output: Annotated[Any, Field(description="What the agent returned.", repr=False)] = None
    error: Annotated[RunErrorView | None, Field(description="Why the run failed, when it did.")] = None


class RunList(_View):
    """A page of runs, newest first; ``next_cursor`` is null on the last one."""

    runs: Annotated[list[RunSummary], Field(description="The runs of this page.")]
    next_cursor: Annotated[str | None, Field(description="The `cursor` of the next page.")]


class EventPage(_View):
    """A page of published events; ask again with ``next_from_seq`` for what follows."""

    events: Annotated[list[Event], Field(description="In order of seq.")]
    next_from_seq: Annotated[int, Field(description="The `fromSeq` of the next page.")]


class StreamToken(_View):
    """What opens one run's stream for an ``EventSource``, as `…/stream?token=`."""

    token: Annotated[str, Field(repr=False, description="The token, signed; treat it as a secret.")]
    expires_at: Annotated[datetime, Field(description="Until when it opens the stream for the first time.")]


class ProblemError(_View):
    """One place of a request that is wrong."""

    pointer: Annotated[str, Field(description="RFC 6901 JSON pointer, or /name of a query value or header.")]
    detail: Annotated[str, Field(description="What is wrong there.")]


class Problem(_View):
    """RFC 9457 problem document."""

    type: Annotated[str, Field(description="Which problem it is: `urn:tailrace:problem:…`, or `about:blank`.")]
    title: Annotated[str, Field(description="The phrase of the status.")]
    status: Annotated[int, Field(description="The HTTP status.")]
    detail: Annotated[str, Field(description="What was tried, what was found, and what to do.")]
    errors: Annotated[list[ProblemError] | None, Field(description="With 422, each place that is wrong.")] = None
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
