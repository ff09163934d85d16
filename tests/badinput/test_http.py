"""What must be refused over HTTP, as a table: the answer, where it points, and a server that is well after each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest

import tailrace
from tailrace.settings import Settings
from tests.hostile.served import API, Server, served
from tests.read_support import RUNS, HandWrittenRun, custom, publish_all

JSON = "Content-Type: application/json"
STREAM, EVENTS = f"{RUNS}/r/stream", f"{RUNS}/r/events"
START = b'{"agent":"echo"}'
DEEP = 100_000


class Bad(NamedTuple):
    """A request, and the statuses it may be refused with; ``pointer`` where it is wrong, when we can say."""

    method: str
    target: str
    headers: tuple[str, ...] = ()
    body: bytes = b""
    status: tuple[int, ...] = (422,)
    pointer: str | None = None


def bad_positions() -> dict[str, Bad]:
    """Whatever ``int()`` takes and a position is not, and what it does not take either."""
    found = {}
    for text in (
        "1_000", "%2B5", "-1", "+5", "5%20", "%205", "5%0A", "%EF%BC%95", "%D9%A5", "%C2%B2", "01", "00", "0x10", "1.0",
        "1e3", "NaN", "null", "true", str(10**19), str(2**64), "9" * 5000, "5%00", "", "[]", "%FF", "%zz", "%", "1,2",
    ):  # fmt: skip
        for path in (STREAM, EVENTS):
            found[f"{path[-6:]} fromSeq={text[:20]}"] = Bad("GET", f"{path}?fromSeq={text}", pointer="/fromSeq")
    for text in ("1_000", "+5", "-1", "\xb2", "01", "0x10", "1.0", "abc", str(10**19), "9" * 5000, "1, 2", "\u2028"):
        header = f"Last-Event-ID: {text}"
        found[f"Last-Event-ID {text[:20]!r}"] = Bad("GET", STREAM, (header,), pointer="/Last-Event-ID")
    for text in ("0", "-1", "1_0", "+5", "%EF%BC%95", "501", "1001", "1e2", "9" * 5000, "x", "%00"):
        found[f"list limit={text[:20]}"] = Bad("GET", f"{RUNS}?limit={text}", pointer="/limit")
    for text in ("0", "-1", "1_0", "1001", "9" * 5000):
        found[f"events limit={text[:20]}"] = Bad("GET", f"{EVENTS}?limit={text}", pointer="/limit")
    return found


def bad_bodies() -> dict[str, Bad]:
    """JSON that is none, or bends on its way."""
    bodies: dict[str, tuple[bytes, str]] = {
        "NaN": (b'{"agent":"echo","input":{"a":NaN}}', "/input/a"),
        "Infinity": (b'{"agent":"echo","input":[1,-Infinity]}', "/input/1"),
        "overflow": (b'{"agent":"echo","input":1e400}', "/input"),
        "duplicate key": (b'{"agent":"echo","agent":"echo"}', "/agent"),
        "duplicate key inside": (b'{"agent":"echo","input":[{"a":1,"a":1}]}', "/input/0/a"),
        "65 levels": (b'{"agent":"echo","input":%b%b}' % (b"[" * 65, b"]" * 65), "/input" + "/0" * 64),
        "100,000 arrays": (b'{"agent":"echo","input":%b%b}' % (b"[" * DEEP, b"]" * DEEP), ""),
        "100,000 arrays, open": (b"[" * DEEP, ""),
        "100,000 objects": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, ""),
        "5,000 digits": (b'{"agent":"echo","input":%b}' % (b"9" * 5000), "/input"),
        "5,000 digits below zero": (b'{"agent":"echo","input":-%b}' % (b"9" * 5000), "/input"),
        "2^64": (b'{"agent":"echo","input":18446744073709551616}', "/input"),
        "byte order mark": (b"\xef\xbb\xbf" + START, ""),
        "UTF-16": ('{"agent":"echo"}'.encode("utf-16"), ""),
        "UTF-16 without mark": ('{"agent":"echo"}'.encode("utf-16-le"), ""),
        "Latin-1": (b'{"agent":"\xe9cho"}', ""),
        "overlong UTF-8": (b'{"agent":"\xc0\xaf"}', ""),
        "encoded surrogate": (b'{"agent":"echo","input":"\xed\xa0\x80"}', ""),
        "lone surrogate": (b'{"agent":"echo","input":"\\ud800"}', "/input"),
        "surrogate in a key": (b'{"agent":"echo","input":{"\\udfff":1}}', "/input"),
        "NUL": (b'{"agent":"echo","input":"\\u0000"}', "/input"),
        "NUL in a key": (b'{"agent":"echo","input":{"a\\u0000":1}}', "/input"),
        "raw NUL": (b'{"agent":"ec\x00ho"}', ""),
        "raw line feed in a string": (b'{"agent":"ec\nho"}', ""),
        "raw U+001F in a string": (b'{"agent":"echo","input":"\x1f"}', ""),
        "NUL in the agent": (b'{"agent":"a\\u0000"}', "/agent"),
        "long agent": (b'{"agent":"%b"}' % (b"a" * 129), "/agent"),
        "agent a list": (b'{"agent":["echo"]}', "/agent"),
        "agent a number": (b'{"agent":1}', "/agent"),
        "no agent": (b"{}", "/agent"),
        "unknown field": (b'{"agent":"echo","x":1}', "/x"),
        "__proto__": (b'{"agent":"echo","__proto__":{}}', "/__proto__"),
        "run id with CR": (b'{"agent":"echo","runId":"a\\rb"}', "/runId"),
        "run id with LF": (b'{"agent":"echo","runId":"a\\n"}', "/runId"),
        "run id with U+2028": (b'{"agent":"echo","runId":"a\\u2028"}', "/runId"),
        "run id ..": (b'{"agent":"echo","runId":".."}', "/runId"),
        "run id ../r": (b'{"agent":"echo","runId":"../r"}', "/runId"),
        "run id %2e": (b'{"agent":"echo","runId":"%2e"}', "/runId"),
        "run id full-width": ('{"agent":"echo","runId":"\uff11"}'.encode(), "/runId"),
        "run id long": (b'{"agent":"echo","runId":"%b"}' % (b"a" * 100_000), "/runId"),
        "run id empty": (b'{"agent":"echo","runId":""}', "/runId"),
        "empty": (b"", ""),
        "an array": (b"[]", ""),
        "a string": (b'"echo"', ""),
        "two documents": (START * 2, ""),
        "trailing comma": (b'{"agent":"echo",}', ""),
        "a form": (b"agent=echo", ""),
        "gzip, undeclared": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", ""),
    }
    return {
        f"body: {name}": Bad("POST", RUNS, (JSON,), body, pointer=pointer) for name, (body, pointer) in bodies.items()
    }


def bad_paths() -> dict[str, Bad]:
    """Run ids that are none: not found, or not even a target."""
    found = {}
    for trick in (
        "..", "../..", "%2e%2e", "%2e%2e%2f", "..%2F..%2Fhealthz", "%2F", "%00", "a%00b", "a%0d%0aX:%20y", "%0A",
        "%E2%80%A8", "%C3%A9", "%FF", "%ED%A0%80", "%", "%zz", "%25", "a;b", "a%20b", "_x", "-x", ".x", "{runId}", "*",
        "x" * 129, "x" * 4000, "r%20", "r%0A", "R%00", "%72%00",
    ):  # fmt: skip
        for rest in ("", "/stream"):
            found[f"GET run {trick[:20]}{rest}"] = Bad("GET", f"{RUNS}/{trick}{rest}", status=(404,))
        found[f"cancel run {trick[:20]}"] = Bad("POST", f"{RUNS}/{trick}/cancel", status=(404, 405))
    return found


def bad_heads() -> dict[str, Bad]:
    """Two where one is meant, the wrong type, the wrong method, too much of anything."""
    return {
        "two Last-Event-ID": Bad("GET", STREAM, ("Last-Event-ID: 1", "Last-Event-ID: 2"), pointer="/Last-Event-ID"),
        "the same Last-Event-ID twice": Bad("GET", STREAM, ("Last-Event-ID: 1",) * 2, pointer="/Last-Event-ID"),
        "two Idempotency-Key": Bad(
            "POST", RUNS, (JSON, "Idempotency-Key: a", "Idempotency-Key: b"), START, pointer="/Idempotency-Key"
        ),
        "two Content-Type": Bad("POST", RUNS, (JSON, JSON), START, pointer="/Content-Type"),
        "two Content-Length": Bad("POST", RUNS, (JSON, "Content-Length: 3"), START, (400,)),
        "Content-Length and chunks": Bad("POST", RUNS, (JSON, "Transfer-Encoding: chunked"), START, (400,)),
        "two fromSeq": Bad("GET", f"{STREAM}?fromSeq=1&fromSeq=2", pointer="/fromSeq"),
        "two fromSeq, one escaped": Bad("GET", f"{EVENTS}?fromSeq=1&from%53eq=2", pointer="/fromSeq"),
        "two limit": Bad("GET", f"{RUNS}?limit=1&limit=2", pointer="/limit"),
        "two state": Bad("GET", f"{RUNS}?state=queued&state=failed", pointer="/state"),
        "two cursor": Bad("GET", f"{RUNS}?cursor=a&cursor=b", pointer="/cursor"),
        "bad state": Bad("GET", f"{RUNS}?state=resting", pointer="/state"),
        "bad cursor": Bad("GET", f"{RUNS}?cursor=%00", pointer="/cursor"),
        "NUL agent": Bad("GET", f"{RUNS}?agent=%00", pointer="/agent"),
        "key with a space": Bad("POST", RUNS, (JSON, "Idempotency-Key: a b"), START, pointer="/Idempotency-Key"),
        "key of Latin-1": Bad("POST", RUNS, (JSON, "Idempotency-Key: \xe9"), START, pointer="/Idempotency-Key"),
        "key too long": Bad("POST", RUNS, (JSON, "Idempotency-Key: " + "k" * 256), START, pointer="/Idempotency-Key"),
        "key empty": Bad("POST", RUNS, (JSON, "Idempotency-Key: "), START, pointer="/Idempotency-Key"),
        "gzip": Bad("POST", RUNS, (JSON, "Content-Encoding: gzip"), b"\x1f\x8b\x08", (415,)),
        "brotli": Bad("POST", RUNS, (JSON, "Content-Encoding: br"), START, (415,)),
        "codings": Bad("POST", RUNS, (JSON, "Content-Encoding: identity, gzip"), START, (415,)),
        "text/plain": Bad("POST", RUNS, ("Content-Type: text/plain",), START, (415,)),
        "multipart": Bad("POST", RUNS, ("Content-Type: multipart/form-data; boundary=x",), START, (415,)),
        "UTF-16 JSON": Bad("POST", RUNS, ("Content-Type: application/json; charset=utf-16",), START, (415,)),
        "empty Content-Type": Bad("POST", RUNS, ("Content-Type: ",), START, (415,)),
        "header too large": Bad("GET", STREAM, ("X: " + "x" * 20_000,), status=(431,)),
        "headers too many": Bad("GET", STREAM, ("X: y",) * 20_000, status=(431,)),
        "target too long": Bad("GET", f"{RUNS}?agent={'x' * 9000}", status=(414,)),
        "unknown method": Bad("BREW", RUNS, status=(400, 405)),
        "method with lower case": Bad("get", RUNS, status=(400, 405)),
        "PUT": Bad("PUT", f"{RUNS}/r", (JSON,), START, (405,)),
        "TRACE": Bad("TRACE", RUNS, status=(405,)),
        "QUERY": Bad("QUERY", RUNS, status=(400, 405)),
        "CONNECT": Bad("CONNECT", "localhost:1", status=(400, 404, 405)),
        "OPTIONS *": Bad("OPTIONS", "*", status=(400, 404, 405)),
        "absolute target": Bad("GET", "http://other.example/nowhere", status=(404,)),
        "fragment": Bad("GET", f"{RUNS}/nobody#r", status=(400, 404)),
        "raw bytes in the target": Bad("GET", f"{RUNS}/\xe9", status=(400, 404)),
        "raw NUL in the target": Bad("GET", f"{RUNS}/\x00", status=(400,)),
        "NUL in a header": Bad("GET", STREAM, ("Last-Event-ID: 1\x00",), status=(400,)),
        "folded header": Bad("GET", STREAM, ("Last-Event-ID: 1\r\n 2",), status=(400, 422)),
        "bare CR in a header": Bad("GET", STREAM, ("Last-Event-ID: 1\rX: y",), status=(400,)),
        "colon after a space": Bad("GET", STREAM, ("Last-Event-ID : 1",), status=(400,)),
        "two hosts": Bad("GET", STREAM, ("Host: other",), status=(400,)),
    }


TABLES = {"positions": bad_positions, "bodies": bad_bodies, "paths": bad_paths, "heads": bad_heads}


@pytest.fixture
async def server(settings: Callable[..., Settings]) -> AsyncIterator[Server]:
    app = tailrace.App(settings(heartbeat_seconds=30))
    async with app.running(API), served(app) as made:
        services = app.services()
        await services.leases.record_agents(["echo"])
        run = await HandWrittenRun.start(services.database, "r")
        await run.append(custom({"text": "a\rb\nc\u2028d"}))
        await publish_all(services.database, services.bus)
        yield made
        services.hub.close()


@pytest.mark.parametrize("table", TABLES)
async def test_what_is_bad_is_refused_by_a_problem_and_the_server_stays_well(
    server: Server, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never a 500, never a hang, never a traceback, and nothing is written; the next request is served."""
    for name, bad in TABLES[table]().items():
        status, headers, body = await _ask(server, bad)
        assert status in bad.status, (name, status, body[:300])
        assert headers["content-type"] == "application/problem+json", name
        document = json.loads(body)
        assert (document["status"], set(document) >= {"type", "title", "detail"}) == (status, True), name
        assert len(body) < 50_000, name
        assert b"Traceback" not in body, name
        if bad.pointer is not None:
            assert bad.pointer in [error["pointer"] for error in document["errors"]], (name, document)
        assert await server.is_healthy(), name
    services = server.app.services()
    assert [run.id for run in (await services.runs.list(state=None, agent=None, limit=9, cursor=None))[0]] == ["r"]
    assert services.streams_open == 0
    assert "request.failed" not in "".join(capsys.readouterr())


def test_the_tables_hold_a_hundred_and_more() -> None:
    """A table that somebody emptied would refuse nothing and pass."""
    assert sum(len(make()) for make in TABLES.values()) > 250


async def _ask(server: Server, bad: Bad) -> tuple[int, dict[str, str], bytes]:
    lines = [f"{bad.method} {bad.target} HTTP/1.1", "Host: localhost", "Connection: close", *bad.headers]
    if bad.body or bad.method == "POST":
        lines.append(f"Content-Length: {len(bad.body)}")
    head = "\r\n".join([*lines, "", ""]).encode("utf-8" if "\u2028" in "".join(bad.headers) else "latin-1")
    answer = await server.says(head + bad.body)
    above, _, body = answer.partition(b"\r\n\r\n")
    first, *pairs = above.decode("latin-1").split("\r\n")
    assert first, f"{bad.method} {bad.target[:60]}: no answer"
    headers: dict[str, Any] = {name.lower(): value for name, _, value in (pair.partition(": ") for pair in pairs)}
    return int(first.split(" ")[1]), headers, body
