"""What the library refuses: a clear error of ours, and nothing sent or written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tailrace
from tailrace.errors import ApiError, InvalidInput, TailraceError, UsageError
from tailrace.model import draft
from tailrace.model.run import check_run_id

DEEP: Any = []
for _ in range(100_000):
    DEEP = [DEEP]
CYCLE: Any = {}
CYCLE["self"] = CYCLE
POSITIONS = (-1, 10**19, 10**5000, True, 1.0, float("nan"), "5", "1_000", None, b"5")
VALUES: dict[str, Any] = {
    "nan": float("nan"), "infinity": [float("-inf")], "2^64": 2**64, "5,000 digits": -(10**5000), "nul": "a\x00",
    "nul key": {"\x00": 1}, "surrogate": "\ud800", "surrogate key": {"\udfff": 1}, "key of int": {1: 1}, "bytes": b"a",
    "set": {1}, "object": object(), "100,000 levels": DEEP, "cycle": CYCLE, "65 levels": None,
}  # fmt: skip
NAMES = ("", "a" * 257, "a\x00b", "\ud800", 1, None, b"a", ["a"])


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


VALUES["65 levels"] = _nested(65)


@pytest.fixture
def client() -> tailrace.Client:
    """Nothing listens where it goes: what is refused is refused before."""
    return tailrace.Client("http://127.0.0.1:9")


@pytest.mark.parametrize("position", POSITIONS, ids=lambda value: repr(value)[:20] if value != 10**5000 else "10^5000")
async def test_a_position_that_is_none_is_refused(client: tailrace.Client, position: Any) -> None:
    """By the stream, which would otherwise ask for ever, and by the page of events."""
    async with client:
        with pytest.raises(InvalidInput):
            await anext(client.stream("r", from_seq=position))
        with pytest.raises(InvalidInput):
            await client.events("r", from_seq=position)


@pytest.mark.parametrize("name", VALUES)
async def test_a_value_that_is_not_strict_json_is_refused(client: tailrace.Client, name: str) -> None:
    """As an input and as an event's data, rather than changed into something else: NaN is no null."""
    async with client:
        with pytest.raises(InvalidInput):
            await client.start("a", VALUES[name])
    with pytest.raises(InvalidInput):
        draft.custom("a", {"value": VALUES[name]} if name != "65 levels" else {"v": VALUES[name]}, 1, max_bytes=1 << 30)


@pytest.mark.parametrize("make", [draft.node_started, draft.node_finished, draft.debug_trace], ids=lambda f: f.__name__)
def test_a_name_that_cannot_stand_in_an_event_is_refused(make: Callable[[Any, int], object]) -> None:
    """Too long, empty, no string, or with what Postgres or UTF-8 cannot hold."""
    for name in NAMES:
        with pytest.raises(InvalidInput):
            make(name, 1)


async def test_whatever_else_is_bad_is_refused_by_an_error_of_ours(client: tailrace.Client) -> None:
    """Keys, ids, URLs, agents."""
    async with client:
        for key in ("", "a b", "a\r\nX: y", "é", "k" * 256, "\ud800"):
            with pytest.raises(InvalidInput):
                await client.start("a", idempotency_key=key)
        for run_id in ("", "..", "a/b", "a\n", "\u2028", "a" * 129, "\ud800", "\x00"):
            with pytest.raises(InvalidInput):
                check_run_id(run_id)
            for call in (client.get, client.cancel):
                with pytest.raises(ApiError, match="404"):
                    await call(run_id)
    for url in ("", "nonsense", "ftp://x", "http://", "http://x:y", "//x", "http://\ud800"):
        with pytest.raises(UsageError):
            tailrace.Client(url)
    for name in ("", "a" * 129, "a\x00", "\ud800"):
        with pytest.raises(TailraceError):
            tailrace.App().agent(name)(_agent)


async def _agent(run: tailrace.Run) -> None: ...
