"""Our streams, read by the parser that most JavaScript clients use: what comes out is exactly what was emitted."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailrace.model import draft
from tailrace.model.event import StoredEvent
from tailrace.read.frame import PING, frame, retry
from tailrace.settings import Settings
from tests.npm import NODE, NPM, REASON, install
from tests.patience import PATIENCE_SECONDS
from tests.read_support import HandWrittenRun, custom, reading

PACKAGE = "eventsource-parser@3"
SCRIPT = Path(__file__).parent / "parse.mjs"
# What ends a line somewhere, ends a block, begins a field or a comment, or is easily dropped or doubled.
NASTY = [
    "\r", "\n", "\r\n", "\n\n", "\r\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\ufeff", "\ufffe",
    "\uffff", "\x01", "\x1b[2J", "\x7f", "\u200b", "\u202e", "😀", "e\u0301", ":", " ", "\t", '"', "\\", "\\n",
    "\\u0000", "data: {}", "id: 99", "\nid: 99\n", "event: x", "retry: 1", ": ping", "[DONE]", "</script>", "null",
]  # fmt: skip
TEXT = (
    st.lists(
        st.sampled_from(NASTY)
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=4),
        min_size=1,
        max_size=6,
    )
    .map("".join)
    .filter(bool)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
EMITTED = st.lists(st.tuples(TEXT, st.none() | st.dictionaries(TEXT, JSON, max_size=3)), min_size=1, max_size=5)

pytestmark = pytest.mark.skipif(NPM is None or NODE is None, reason=REASON)
Parse = Callable[[Sequence[bytes]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def parse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parse]:
    """Parse the pieces of one stream in a Node process."""
    assert NODE is not None
    folder = tmp_path_factory.mktemp("parser")
    shutil.copy(SCRIPT, folder)
    install(folder, PACKAGE)
    with subprocess.Popen(
        [NODE, SCRIPT.name], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as node:
        assert node.stdin is not None
        assert node.stdout is not None
        sent, received = node.stdin, node.stdout

        def ask(pieces: Sequence[bytes]) -> list[dict[str, Any]]:
            sent.write(json.dumps([base64.b64encode(piece).decode() for piece in pieces]) + "\n")
            sent.flush()
            found: list[dict[str, Any]] = json.loads(received.readline())
            return found

        yield ask
        sent.close()
        assert node.wait(timeout=PATIENCE_SECONDS) == 0


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(emitted=EMITTED, sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_what_a_client_parses_is_what_was_emitted(
    parse: Parse, emitted: list[tuple[str, dict[str, Any] | None]], sizes: list[int]
) -> None:
    """Whatever stands in names and data, however the stream is cut into pieces."""
    stream = retry(1000)
    for seq, (name, data) in enumerate(emitted, 1):
        made = draft.custom(name, data, 1, max_bytes=1 << 24)
        stream += frame(StoredEvent("r", seq, 1, made.type, made.name, made.fn, made.data)).text + PING
    pieces: list[bytes] = []
    start = 0
    while start < len(stream):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(stream[start : start + size])
        start += size
    _is_what_was_emitted(parse(pieces), emitted)


async def test_and_all_the_way_through_the_database_and_http(parse: Parse, settings: Callable[..., Settings]) -> None:
    """Every nasty text as a name, a key and a value."""
    emitted: list[tuple[str, dict[str, Any] | None]] = [(text, {text: [text, {"\n" + text: text}]}) for text in NASTY]
    async with reading(settings(heartbeat_seconds=30)) as server:
        run: HandWrittenRun = await server.run()
        await run.append(*(custom(data, name=name) for name, data in emitted))
        await run.finish()
        await server.publish()
        async with server.stream(query="?fromSeq=1") as answer:
            found = parse([await answer.rest()])
    assert json.loads(found.pop()["data"])["type"] == "RunFinished"
    _is_what_was_emitted(found, emitted, first=2)


def _is_what_was_emitted(
    found: list[dict[str, Any]], emitted: list[tuple[str, dict[str, Any] | None]], *, first: int = 1
) -> None:
    assert found[0] == {"retry": 1000}
    events = found[1:]
    assert [event["id"] for event in events] == [str(first + index) for index in range(len(emitted))]
    assert not any("event" in event for event in events), "a named event would not reach onmessage"
    documents = [json.loads(event["data"]) for event in events]
    assert [(each["name"], each.get("data")) for each in documents] == emitted
