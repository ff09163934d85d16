"""What goes over a remote bus, and what is passed over when it comes."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.bus.bus import Published
from tailrace.bus.message import MESSAGE_MAX_BYTES, VERSION, decode, encode
from tailrace.model.event import StoredEvent

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(TEXT, st.none() | TEXT, st.none() | TEXT), max_size=5))
def test_what_is_encoded_is_decoded(fields: list[tuple[str, str | None, str | None]]) -> None:
    """Whatever the texts."""
    events = [StoredEvent("r", seq, 1, "Custom", name, fn, data) for seq, (name, fn, data) in enumerate(fields, 1)]
    published = Published("r", len(events) or 7, events)
    assert decode(encode("me", published, max_bytes=MESSAGE_MAX_BYTES)) == ("me", published)


@pytest.mark.parametrize("length", [99, 100, 101, 10_000])
def test_a_message_is_never_longer_than_its_bound(length: int) -> None:
    """Without its events it still says how far the run is published."""
    events = [StoredEvent("r", 5, 1, "Custom", None, None, "x" * length)]
    message = encode("me", Published("r", 5, events), max_bytes=100)
    assert len(message) <= 100
    assert decode(message) == ("me", Published("r", 5, []))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff",
        b"{}",
        b"null",
        b"[]",
        b"[1]",
        orjson.dumps([VERSION + 1, "s", "r", 1, []]),
        orjson.dumps([VERSION, "s", 5, 1, []]),
        orjson.dumps([VERSION, "s", "r", "1", []]),
        orjson.dumps([VERSION, "s", "r", True, []]),
        orjson.dumps([VERSION, "s", "r", 1, 3]),
        orjson.dumps([VERSION, "s", "r", 1, [[1]]]),
        orjson.dumps([VERSION, "s", "r", 2, [[1, 2, "Custom", None, None, None]]]),
        orjson.dumps(
            [VERSION, "s", "r", 2, [["1", 2, "Custom", None, None, None], [2, 2, "Custom", None, None, None]]]
        ),
        orjson.dumps([VERSION, "s", "r", 1, [], "more"]),
    ],
)
def test_what_is_not_such_a_message_is_passed_over(message: bytes) -> None:
    """A server is shared, and a rolling upgrade mixes versions; nothing that arrives may raise."""
    assert decode(message) is None
