"""The canonical event, defined once.

``Event`` is the shape on every wire; the JSON Schema (``tailrace schema``) and the OpenAPI document are generated
from it.  ``StoredEvent`` is the same event as it lies in Postgres, with ``data`` still as the JSON text that was
validated when it was written; ``encode`` turns it into the wire form without parsing that text again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_ID = "https://tailrace.dev/schema/event-v1.json"
RUN_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
SEQ_MAX = 2**63 - 1


class EventType(StrEnum):
    """What happened."""

    RUN_STARTED = "RunStarted"
    NODE_STARTED = "NodeStarted"
    DEBUG_TRACE = "DebugTrace"
    NODE_FINISHED = "NodeFinished"
    CUSTOM = "Custom"
    RUN_FINISHED = "RunFinished"
    RUN_FAILED = "RunFailed"
    RUN_CANCELLED = "RunCancelled"


TERMINAL_TYPES = frozenset({EventType.RUN_FINISHED, EventType.RUN_FAILED, EventType.RUN_CANCELLED})
NAMED_TYPES = frozenset({EventType.NODE_STARTED, EventType.NODE_FINISHED, EventType.CUSTOM})
FN_TYPES = frozenset({EventType.DEBUG_TRACE, EventType.RUN_FAILED})
DATA_TYPES = frozenset({EventType.CUSTOM, EventType.RUN_FAILED})


class Event(BaseModel):
    """One entry of a run's log, as every client receives it.  Absent fields are left out, never null."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        title="Tailrace event",
        json_schema_extra={"$id": SCHEMA_ID, "$schema": "https://json-schema.org/draft/2020-12/schema"},
    )

    run_id: Annotated[str, Field(alias="runId", pattern=RUN_ID_PATTERN, description="The run it belongs to.")]
    seq: Annotated[int, Field(ge=1, le=SEQ_MAX, description="Position in the run: starts at 1, rises by exactly 1.")]
    ts: Annotated[int, Field(ge=0, description="When it was emitted: milliseconds since the Unix epoch.")]
    type: Annotated[EventType, Field(description="What happened.")]
    v: Annotated[Literal[1], Field(description="Version of this shape.")] = 1
    source: Annotated[str, Field(description="Who hands it over: always `outbox` on the wire.")] = "outbox"
    name: Annotated[str, Field(description="Node name (NodeStarted, NodeFinished) or event name (Custom).")] = ""
    fn: Annotated[str, Field(description="Function (DebugTrace) or the error's class (RunFailed).")] = ""
    data: Annotated[dict[str, Any], Field(description="Payload; only on Custom and RunFailed.")] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _fields_fit_the_type(self) -> Self:
        for field, allowed in (("name", NAMED_TYPES), ("fn", FN_TYPES), ("data", DATA_TYPES)):
            if field in self.model_fields_set and self.type not in allowed:
                raise ValueError(f"{self.type} carries no {field}")
        return self

    @property
    def is_terminal(self) -> bool:
        """Whether this is the run's last event."""
        return self.type in TERMINAL_TYPES

    def to_json(self) -> str:
        """Return the canonical JSON text: keys in the contract's order, absent fields left out."""
        return self.model_dump_json(by_alias=True, exclude_unset=False, exclude=self._absent())

    def _absent(self) -> set[str]:
        return {"name", "fn", "data"} - self.model_fields_set


def event_json_schema() -> dict[str, Any]:
    """Return the event's JSON Schema (draft 2020-12), generated from ``Event``."""
    schema = Event.model_json_schema(by_alias=True)
    schema["required"] = ["runId", "seq", "ts", "type", "v", "source"]
    for name in ("v", "source", "name", "fn", "data"):
        schema["properties"][name].pop("default", None)
    schema["allOf"] = [
        {
            "if": {"properties": {"type": {"not": {"enum": sorted(allowed)}}}},
            "then": {"properties": {field: False}},
        }
        for field, allowed in (("name", NAMED_TYPES), ("fn", FN_TYPES), ("data", DATA_TYPES))
    ]
    return schema


class StoredEvent(NamedTuple):
    """One row of ``run_events``, in the order the read statements select it; ``data`` is JSON text."""

    run_id: str
    seq: int
    ts: int
    type: str
    name: str | None
    fn: str | None
    data: str | None


def encode(event: StoredEvent) -> bytes:
    """Return the event's canonical JSON on one line, as UTF-8.

    The data was validated and made compact when it was written, so it is copied, not parsed: encoding is on the path
    of every delivery.  Only a row that someone wrote by hand can hold a line break, and that one is made compact here.
    """
    parts = [
        f'{{"runId":"{event.run_id}","seq":{event.seq},"ts":{event.ts},"type":"{event.type}","v":1,"source":"outbox"'
    ]
    if event.name is not None:
        parts.append(f',"name":{_quote(event.name)}')
    if event.fn is not None:
        parts.append(f',"fn":{_quote(event.fn)}')
    if event.data is not None:
        data = event.data
        if "\n" in data or "\r" in data:
            data = orjson.dumps(orjson.loads(data)).decode()
        parts.append(f',"data":{data}')
    parts.append("}")
    return "".join(parts).encode()


def _quote(text: str) -> str:
    return orjson.dumps(text).decode()
