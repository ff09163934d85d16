"""The canonical event: one definition, three forms (row, wire, schema) that agree."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jsonschema  # type: ignore[import-untyped] # it ships no types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tailrace.model import strictjson
from tailrace.model.event import (
    DATA_TYPES,
    FN_TYPES,
    NAMED_TYPES,
    SEQ_MAX,
    Event,
    EventType,
    StoredEvent,
    encode,
    event_json_schema,
)

TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=20)
DATA = st.dictionaries(
    TEXTS,
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXTS | st.lists(st.integers(0, 9), max_size=3),
    max_size=4,
)
SCHEMA = jsonschema.Draft202012Validator(event_json_schema())


@st.composite
def stored_events(draw: st.DrawFn) -> StoredEvent:
    kind = draw(st.sampled_from(list(EventType)))
    data = draw(st.none() | DATA) if kind in DATA_TYPES else None
    return StoredEvent(
        run_id=draw(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")),
        seq=draw(st.integers(1, SEQ_MAX)),
        ts=draw(st.integers(0, 2**53)),
        type=str(kind),
        name=draw(TEXTS) if kind in NAMED_TYPES else None,
        fn=draw(TEXTS) if kind in FN_TYPES else None,
        data=strictjson.dump(data) if data is not None else None,
    )


@given(stored_events())
def test_what_is_encoded_is_the_event_again(stored: StoredEvent) -> None:
    """Row to wire to model and back to the wire: the same bytes."""
    line = encode(stored)
    event = Event.model_validate_json(line)
    assert event.to_json().encode() == line
    assert (event.run_id, event.seq, event.ts, event.type) == (stored.run_id, stored.seq, stored.ts, stored.type)
    assert (event.name or None, event.fn or None) == (stored.name, stored.fn)
    assert event.data == (json.loads(stored.data) if stored.data is not None else {})


@given(stored_events())
def test_the_wire_form_is_one_line_in_the_contracts_order_without_nulls(stored: StoredEvent) -> None:
    """Absent fields are left out, never null."""
    line = encode(stored)
    assert b"\n" not in line
    assert b"\r" not in line
    fields = json.loads(line)
    order = ["runId", "seq", "ts", "type", "v", "source", "name", "fn", "data"]
    assert list(fields) == [field for field in order if field in fields]
    assert None not in [fields[field] for field in fields]
    assert fields["v"] == 1
    assert fields["source"] == "outbox"


@given(stored_events())
def test_the_schema_accepts_whatever_is_encoded(stored: StoredEvent) -> None:
    """The published JSON Schema and the encoder come from one definition and agree."""
    SCHEMA.validate(json.loads(encode(stored)))


def fields_of(kind: EventType, **more: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "runId": "r1", "seq": 2, "ts": 1790000000000, "type": str(kind), "v": 1, "source": "outbox",
    }  # fmt: skip
    if kind in NAMED_TYPES:
        fields["name"] = "n"
    if kind in FN_TYPES:
        fields["fn"] = "f"
    return fields | more


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (kind, field)
        for kind, (field, allowed) in itertools.product(
            EventType, (("name", NAMED_TYPES), ("fn", FN_TYPES), ("data", DATA_TYPES))
        )
        if kind not in allowed
    ],
)
def test_a_field_on_a_type_that_does_not_carry_it_is_refused_by_schema_and_model(kind: EventType, field: str) -> None:
    """RunStarted, NodeStarted, DebugTrace, NodeFinished and RunFinished carry no payload, ever."""
    fields = fields_of(kind, **{field: {} if field == "data" else "x"})
    assert not SCHEMA.is_valid(fields)
    with pytest.raises(ValidationError):
        Event.model_validate(fields)


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 0}, {"seq": -1}, {"seq": "1"}, {"seq": 1.5}, {"seq": 2**63}, {"ts": -1}, {"ts": None},
        {"type": "Other"}, {"v": 2}, {"runId": ""}, {"runId": "-a"}, {"runId": "a" * 129}, {"name": None},
        {"data": None}, {"data": []}, {"data": "x"}, {"extra": 1}, {"epoch": 1}, {"publishedAt": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_value_is_refused_by_schema_and_model(change: dict[str, Any]) -> None:
    """Both say no to the same documents."""
    fields = fields_of(EventType.CUSTOM, **change)
    assert SCHEMA.is_valid(fields_of(EventType.CUSTOM))
    assert not SCHEMA.is_valid(fields)
    with pytest.raises(ValidationError):
        Event.model_validate_json(json.dumps(fields), strict=True)


@pytest.mark.parametrize("field", ["runId", "seq", "ts", "type", "v", "source"])
def test_the_schema_requires_what_every_event_has(field: str) -> None:
    """A document without it is not an event."""
    fields = fields_of(EventType.RUN_STARTED)
    assert SCHEMA.is_valid(fields)
    del fields[field]
    assert not SCHEMA.is_valid(fields)


def test_the_schema_is_itself_a_schema() -> None:
    """It says its own dialect and id."""
    jsonschema.Draft202012Validator.check_schema(event_json_schema())
    assert event_json_schema()["$id"].startswith("https://")


def test_a_line_break_that_somebody_wrote_by_hand_does_not_reach_the_wire() -> None:
    """The row is made compact; its meaning stays."""
    line = encode(StoredEvent("r", 2, 1, "Custom", "n", None, '{\n  "a": "x\\ny",\r\n "b": [1,\n2]}'))
    assert b"\n" not in line
    assert b"\r" not in line
    assert json.loads(line)["data"] == {"a": "x\ny", "b": [1, 2]}
