"""Events before they have a place: every rule about what a type may carry."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tailrace.errors import EventTooLarge, InvalidEvent
from tailrace.model import draft
from tailrace.model.event import EventType


@pytest.mark.parametrize("name", ["", "n" * 257, "a\x00b", "\ud800", 5, None, b"x", ["n"]], ids=repr)
@pytest.mark.parametrize("make", [draft.node_started, draft.node_finished, draft.debug_trace])
def test_a_name_that_cannot_stand_in_an_event_is_refused(make: Any, name: object) -> None:
    """1 to 256 characters that Postgres can store and a browser can read."""
    with pytest.raises(InvalidEvent):
        make(name, 1)


def test_the_longest_name_is_counted_in_characters() -> None:
    """256 of them, whatever they take as UTF-8."""
    assert draft.node_started("\U0001f600" * 256, 1).name == "\U0001f600" * 256


@pytest.mark.parametrize("limit", [256, 1000])
@pytest.mark.parametrize("character", ["x", "é", "\u2028", "\U0001f600"])
def test_data_may_take_exactly_the_limit_as_utf8(limit: int, character: str) -> None:
    """The limit counts bytes of the JSON text: the limit itself passes, one byte more does not."""
    room = limit - len(b'{"d":""}')
    fitting = character * (room // len(character.encode()))
    fitting += "x" * (room - len(fitting.encode()))
    data = draft.custom("n", {"d": fitting}, 1, max_bytes=limit).data
    assert data is not None
    assert len(data.encode()) == limit
    with pytest.raises(EventTooLarge) as refused:
        draft.custom("n", {"d": fitting + "x"}, 1, max_bytes=limit)
    assert f"{limit + 1} bytes" in str(refused.value)
    assert refused.value.faults[0].pointer == "/data"


def test_the_pointer_of_bad_data_begins_at_the_event() -> None:
    """``/data/…``, as in the event it would have become."""
    with pytest.raises(InvalidEvent) as refused:
        draft.custom("n", {"a": [1, float("nan")]}, 1, max_bytes=1000)
    assert refused.value.faults[0].pointer == "/data/a/1"


@pytest.mark.parametrize("data", [[], "text", 5, True, ("a",), {"a"}], ids=repr)
def test_data_that_is_no_object_is_refused(data: object) -> None:
    """Only objects, so that a field can be added later."""
    with pytest.raises(InvalidEvent, match="must be a JSON object"):
        draft.custom("n", data, 1, max_bytes=1000)


class SaysNothing(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text today")


class SaysANumber(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value] # noqa: PLE0307 - that it is wrong is the point


@pytest.mark.parametrize(
    "error",
    [
        ValueError("plain"), ValueError(), ValueError("\x00 \ud800"), ValueError("x" * 100_000),
        ValueError("\U0001f600" * 5000), SaysNothing(), SaysANumber(), KeyboardInterrupt(),
        type("N" * 1000, (Exception,), {})("long name"),
        ExceptionGroup("several", [ValueError("a")]),
    ],
    ids=lambda error: type(error).__name__[:20].encode("ascii", "replace").decode(),
)  # fmt: skip
def test_whatever_an_agent_raises_its_run_can_end(error: BaseException) -> None:
    """RunFailed names class and message, within the limits, and refuses nothing."""
    failed = draft.run_failed(error, 1, max_bytes=256)
    assert failed.type == EventType.RUN_FAILED
    assert failed.fn is not None
    assert draft.check_name(failed.fn, "fn")
    assert failed.data is not None
    assert len(failed.data.encode()) <= 256
    assert set(json.loads(failed.data)) == {"message"}
    assert "Traceback" not in failed.data
