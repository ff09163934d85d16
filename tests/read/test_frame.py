"""Framing: what goes over the wire, byte for byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.model import strictjson
from tailrace.model.event import StoredEvent
from tailrace.read.frame import PING, frame, retry

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=40)


@given(name=_text, data=st.dictionaries(_text, _text | st.integers(-(2**53), 2**53) | st.none() | st.booleans()))
def test_a_frame_is_two_lines_and_a_blank_one_whatever_is_in_the_event(name: str, data: dict[str, object]) -> None:
    """CR, LF, U+2028, U+0085 and the rest stay inside the JSON, and come back unchanged."""
    text = frame(StoredEvent("r", 7, 1_790_000_000_000, "Custom", name, None, strictjson.dump(data))).text
    assert text.count(b"\n") == 3
    assert b"\r" not in text
    assert text.startswith(b"id: 7\ndata: {")
    assert text.endswith(b"}\n\n")
    found = json.loads(text.split(b"\n")[1].removeprefix(b"data: "))
    assert (found["name"], found["data"]) == (name, data)


@pytest.mark.parametrize("gap", ["\n", "\r\n", "\r", "\n\n  ", "\t"])
def test_data_that_somebody_wrote_by_hand_with_line_breaks_is_made_one_line(gap: str) -> None:
    """Rows written with psql must not break the stream for everybody."""
    text = frame(StoredEvent("r", 2, 1, "Custom", "n", None, f'{{"a":{gap}1,{gap}"b":[2]{gap}}}')).text
    assert text.count(b"\n") == 3
    assert b"\r" not in text
    assert json.loads(text.split(b"\n")[1].removeprefix(b"data: "))["data"] == {"a": 1, "b": [2]}


@pytest.mark.parametrize(
    ("type_", "terminal"),
    [("Custom", False), ("NodeFinished", False), ("RunFinished", True), ("RunFailed", True), ("RunCancelled", True)],
)
def test_a_frame_knows_whether_it_is_the_last(type_: str, terminal: bool) -> None:
    """The stream ends after a terminal event, and only then."""
    assert frame(StoredEvent("r", 2, 1, type_, None, None, None)).terminal is terminal


def test_what_carries_no_event_carries_no_id() -> None:
    """A browser takes over the id of every block it reads, so a ping or a retry must have none."""
    assert retry(250) == b"retry: 250\n\n"
    assert PING == b": ping\n\n"
