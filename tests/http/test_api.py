"""The HTTP API, call by call: what is answered, and everything that is refused."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # it ships no types

import tailrace
from tailrace.settings import Settings
from tailrace.store.database import Database
from tests.http.agents import app as agents
from tests.patience import PATIENCE_SECONDS
from tests.read_support import RUNS, HandWrittenRun, Reading, execute, publish_all, reading, request, serving

DEEP = 65
ALLOWED = {RUNS: "GET, POST", f"{RUNS}/r": "GET", "/healthz": "GET, HEAD"}
REFUSED_BODIES: dict[str, tuple[bytes, str]] = {
    # name: the body and the pointer that its refusal must hold
    "empty": (b"", ""),
    "white-space": (b" \n ", ""),
    "cut": (b'{"agent":"echo"', ""),
    "two-documents": (b'{"agent":"echo"}{}', ""),
    "trailing-comma": (b'{"agent":"echo",}', ""),
    "single-quotes": (b"{'agent':'echo'}", ""),
    "comment": (b'{"agent":"echo"} // hi', ""),
    "not-utf8": (b'{"agent":"\xff"}', ""),
    "utf16": ('{"agent":"echo"}'.encode("utf-16"), ""),
    "byte-order-mark": (b'\xef\xbb\xbf{"agent":"echo"}', ""),
    "encoded-surrogate": (b'{"agent":"echo","input":"\xed\xa0\x80"}', ""),
    "null": (b"null", ""),
    "array": (b'["echo"]', ""),
    "string": (b'"echo"', ""),
    "number": (b"1", ""),
    "agent-missing": (b"{}", "/agent"),
    "agent-null": (b'{"agent":null}', "/agent"),
    "agent-number": (b'{"agent":1}', "/agent"),
    "agent-array": (b'{"agent":["echo"]}', "/agent"),
    "agent-empty": (b'{"agent":""}', "/agent"),
    "agent-long": (b'{"agent":"%b"}' % (b"x" * 129), "/agent"),
    "agent-nul": (b'{"agent":"a\\u0000"}', "/agent"),
    "unknown-field": (b'{"agent":"echo","inptu":1}', "/inptu"),
    "unknown-field-with-slash": (b'{"agent":"echo","a/b~c":1}', "/a~1b~0c"),
    "python-name": (b'{"agent":"echo","run_id":"x"}', "/run_id"),
    "run-id-null-byte": (b'{"agent":"echo","runId":"a\\u0000"}', "/runId"),
    "run-id-number": (b'{"agent":"echo","runId":7}', "/runId"),
    "run-id-empty": (b'{"agent":"echo","runId":""}', "/runId"),
    "run-id-slash": (b'{"agent":"echo","runId":"a/b"}', "/runId"),
    "run-id-dots": (b'{"agent":"echo","runId":".."}', "/runId"),
    "run-id-line-break": (b'{"agent":"echo","runId":"a\\n"}', "/runId"),
    "run-id-long": (b'{"agent":"echo","runId":"%b"}' % (b"x" * 129), "/runId"),
    "run-id-unicode": ('{"agent":"echo","runId":"é"}'.encode(), "/runId"),
    "input-nul": (b'{"agent":"echo","input":{"a":["\\u0000"]}}', "/input/a/0"),
    "input-nul-key": (b'{"agent":"echo","input":{"\\u0000":1}}', "/input"),
    "input-lone-surrogate": (b'{"agent":"echo","input":"\\ud800"}', "/input"),
    "input-reversed-surrogates": (b'{"agent":"echo","input":"\\udc00\\ud800"}', "/input"),
    "input-surrogate-key": (b'{"agent":"echo","input":{"\\udfff":1}}', "/input"),
    "input-nan": (b'{"agent":"echo","input":[NaN]}', "/input/0"),
    "input-infinity": (b'{"agent":"echo","input":Infinity}', "/input"),
    "input-minus-infinity": (b'{"agent":"echo","input":-Infinity}', "/input"),
    "input-overflow": (b'{"agent":"echo","input":1e999}', "/input"),
    "input-beyond-64-bits": (b'{"agent":"echo","input":18446744073709551616}', "/input"),
    "input-5000-digits": (b'{"agent":"echo","input":%b}' % (b"9" * 5000), "/input"),
    "input-too-deep": (b'{"agent":"echo","input":%b%b}' % (b"[" * DEEP, b"]" * DEEP), "/input" + "/0" * (DEEP - 1)),
    "input-absurdly-deep": (b'{"agent":"echo","input":%b%b}' % (b"[" * 100_000, b"]" * 100_000), ""),
    "absurdly-deep": (b"[" * 100_000, ""),
    "duplicate-key": (b'{"agent":"echo","agent":"wait"}', "/agent"),
    "duplicate-key-inside": (b'{"agent":"echo","input":{"a":1,"a":1}}', "/input/a"),
}


@pytest.fixture
async def server(settings: Callable[..., Settings]) -> AsyncIterator[Reading]:
    """An API that accepts runs for the agents of another process."""
    async with reading(settings(max_body_bytes=1 << 18)) as made:
        await made.services.leases.record_agents(["echo", "wait"])
        yield made


@pytest.fixture
async def http(server: Reading) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as client:
        yield client


def is_problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """Check that an answer is an RFC 9457 document with this status and return it."""
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert {"type", "title", "detail"} <= document.keys()
    assert all(isinstance(document[name], str) for name in ("type", "title", "detail"))
    assert ("errors" in document) == (status == 422)
    for error in document.get("errors", []):
        assert set(error) == {"pointer", "detail"}
        assert error["pointer"] == "" or error["pointer"].startswith("/")
    return document


def ends_streams(app: tailrace.App) -> Callable[[], None]:
    def end() -> None:
        app.services().hub.close()

    return end


# -- start -------------------------------------------------------------------------------------------------------


async def test_every_body_that_is_not_acceptable_is_refused_and_writes_nothing(
    http: httpx2.AsyncClient, server: Reading
) -> None:
    """422, a problem document that names the place, and no row in the database."""
    for name, (body, pointer) in REFUSED_BODIES.items():
        answer = await http.post(RUNS, content=body)
        errors = is_problem(answer, 422)["errors"]
        assert pointer in [error["pointer"] for error in errors], (name, errors)
        assert len(answer.content) < 50_000, f"{name}: the refusal is longer than it needs to be"
    assert (await http.get(RUNS)).json() == {"runs": [], "nextCursor": None}


@pytest.mark.parametrize(
    "body",
    [
        b"{%b}" % b",".join(b'"k%d":1' % number for number in range(10_000)),
        b'{"agent":"echo","%b":1}' % (b"k" * 100_000),
        b'{"agent":"echo","input":{%b}}' % b",".join(b'"\\u0000%d":1' % number for number in range(10_000)),
        b'{"agent":"echo","input":[%b]}' % b",".join([b"NaN"] * 10_000),
        b'{"agent":"%b"}' % (b"x" * 100_000),
        b'{"agent":"echo","runId":"%b"}' % (b"x" * 100_000),
    ],
    ids=["unknown-fields", "long-field", "bad-keys", "bad-values", "long-agent", "long-run-id"],
)
async def test_a_hostile_body_gets_a_short_answer(http: httpx2.AsyncClient, body: bytes) -> None:
    """The refusal is bounded, whatever was sent."""
    answer = await http.post(RUNS, content=body)
    assert is_problem(answer, 422)["errors"]
    assert len(answer.content) < 50_000


async def test_a_run_is_created_with_its_location_and_its_first_event(
    http: httpx2.AsyncClient, server: Reading
) -> None:
    """201, the run, a Location that leads to it, RunStarted persisted, nothing published."""
    answer = await http.post(RUNS, content=b'{"agent":"echo","input":{"z":1,"a":[1.0,null,"\\u00e9"]},"runId":"mine"}')
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["location"] == f"{RUNS}/mine"
    run = answer.json()
    shown = (await http.get(answer.headers["location"])).json()
    assert shown == run
    assert list(run["input"]) == ["z", "a"]
    expected = {
        "runId": "mine", "agent": "echo", "state": "queued", "lastSeq": 1, "nextSeq": 1, "backlog": 1,
        "startedAt": None, "finishedAt": None, "output": None, "input": {"z": 1, "a": [1.0, None, "é"]},
    }  # fmt: skip
    assert expected.items() <= run.items()


@pytest.mark.parametrize(
    "value", [None, False, 0, -(2**63), 2**64 - 1, 1.5, "", "\u2028", [], {}, [[[]]], {"": ""}, {"a/b": {"~": 1}}]
)
async def test_any_json_value_is_an_input(http: httpx2.AsyncClient, value: object) -> None:
    """And comes back as it was."""
    answer = await http.post(RUNS, content=json.dumps({"agent": "echo", "input": value}))
    assert answer.status_code == 201
    found = answer.json()["input"]
    assert (found, type(found)) == (value, type(value))


async def test_the_deepest_input_that_is_allowed_is_accepted(http: httpx2.AsyncClient) -> None:
    """64 levels; the object around it does not count."""
    body = b'{"agent":"echo","input":%b%b}' % (b"[" * 64, b"]" * 64)
    assert (await http.post(RUNS, content=body)).status_code == 201


async def test_the_body_is_bounded_whether_its_length_is_declared_or_not(
    http: httpx2.AsyncClient, server: Reading
) -> None:
    """413, as a problem, also for a body that comes in chunks without end."""
    large = b'{"agent":"echo","input":"%b"}' % (b"x" * (1 << 18))
    is_problem(await http.post(RUNS, content=large), 413)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 10_000):
            yield large[start : start + 10_000]

    is_problem(await http.post(RUNS, content=chunks()), 413)
    fits = large[: (1 << 18) - 2] + b'"}'
    assert len(fits) == 1 << 18
    assert (await http.post(RUNS, content=fits)).status_code == 201


async def test_an_unknown_agent_is_not_found(http: httpx2.AsyncClient) -> None:
    """404; an agent that a worker elsewhere serves is known."""
    detail = is_problem(await http.post(RUNS, json={"agent": "nobody"}), 404)["detail"]
    assert "nobody" in detail
    assert (await http.post(RUNS, json={"agent": "wait"})).status_code == 201


async def test_a_run_id_that_is_taken_is_a_conflict(http: httpx2.AsyncClient) -> None:
    """409; the first run stays as it was."""
    first = await http.post(RUNS, json={"agent": "echo", "input": 1, "runId": "mine"})
    is_problem(await http.post(RUNS, json={"agent": "echo", "input": 2, "runId": "mine"}), 409)
    assert (await http.get(f"{RUNS}/mine")).json() == first.json()


async def test_an_idempotency_key_makes_one_run(http: httpx2.AsyncClient) -> None:
    """The same key and body: 200 and the same run, however the JSON is written; another body: 422."""
    key = {"Idempotency-Key": "k-1"}
    first = await http.post(RUNS, content=b'{"agent":"echo","input":{"a":1,"b":2}}', headers=key)
    again = await http.post(RUNS, content=b' {"input": {"b": 2, "a": 1}, "agent": "echo"}', headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["runId"] == first.json()["runId"]
    assert again.headers["location"] == first.headers["location"]
    for other in (
        {"agent": "echo"},
        {"agent": "wait", "input": {"a": 1, "b": 2}},
        {"agent": "echo", "input": {"a": "1", "b": 2}},
        {"agent": "echo", "input": {"a": 1, "b": 2}, "runId": "x"},
    ):
        is_problem(await http.post(RUNS, json=other, headers=key), 422)
    other_key = await http.post(
        RUNS, content=b'{"agent":"echo","input":{"a":1,"b":2}}', headers={"Idempotency-Key": "k-2"}
    )
    assert other_key.status_code == 201
    assert len((await http.get(RUNS)).json()["runs"]) == 2


async def test_a_repeat_is_answered_also_when_nobody_serves_the_agent_any_more(
    settings: Callable[..., Settings], database: Database
) -> None:
    """200 and the run of that time, by a server that does not know the agent and refuses a new start by 404."""
    key = {"Idempotency-Key": "k-1"}
    answers = []
    for expected in (201, 200):
        async with (
            reading(settings()) as server,
            httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as http,
        ):
            if expected == 201:
                await server.services.leases.record_agents(["gone"])
            answer = await http.post(RUNS, json={"agent": "gone"}, headers=key)
            assert answer.status_code == expected
            answers.append(answer.json())
            await execute(database, "delete from tailrace.agents")
    assert answers[0]["runId"] == answers[1]["runId"]
    async with reading(settings()) as server, httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as http:
        is_problem(await http.post(RUNS, json={"agent": "gone"}), 404)
        is_problem(await http.post(RUNS, json={"agent": "gone"}, headers={"Idempotency-Key": "k-2"}), 404)
        is_problem(await http.post(RUNS, json={"agent": "other"}, headers=key), 422)


async def test_an_idempotency_key_that_comes_at_once_many_times_makes_one_run(http: httpx2.AsyncClient) -> None:
    """Twenty clients race: one 201, the rest 200, one run."""
    answers = await asyncio.gather(
        *(http.post(RUNS, json={"agent": "echo"}, headers={"Idempotency-Key": "race"}) for _ in range(20))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.json()["runId"] for answer in answers}) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "x" * 5000, "é"])
async def test_an_idempotency_key_that_is_not_acceptable_is_refused(http: httpx2.AsyncClient, key: str) -> None:
    """1 to 255 visible ASCII characters."""
    answer = await http.post(RUNS, json={"agent": "echo"}, headers=[(b"Idempotency-Key", key.encode())])
    (error,) = is_problem(answer, 422)["errors"]
    assert error["pointer"].lower() == "/idempotency-key"


# -- list and show -----------------------------------------------------------------------------------------------


async def test_runs_are_listed_newest_first_page_by_page(http: httpx2.AsyncClient) -> None:
    """Each run once, whatever the page's size; the last page has no cursor."""
    made = [(await http.post(RUNS, json={"agent": "echo"})).json()["runId"] for _ in range(7)]
    for limit in (1, 3, 7, 8):
        seen: list[str] = []
        cursor: str | None = None
        while True:
            query = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
            page = (await http.get(RUNS, params=query)).json()
            assert list(page) == ["runs", "nextCursor"]
            assert 1 <= len(page["runs"]) <= limit
            seen += [run["runId"] for run in page["runs"]]
            if (cursor := page["nextCursor"]) is None:
                break
        assert seen == made[::-1]


async def test_runs_are_listed_by_state_and_agent(http: httpx2.AsyncClient) -> None:
    """Filters hold alone and together, and over a cursor."""
    echo = [(await http.post(RUNS, json={"agent": "echo"})).json()["runId"] for _ in range(3)]
    wait = (await http.post(RUNS, json={"agent": "wait"})).json()["runId"]
    await http.post(f"{RUNS}/{echo[1]}/cancel")

    async def found(**query: str) -> list[str]:
        return [run["runId"] for run in (await http.get(RUNS, params=query)).json()["runs"]]

    assert await found(agent="wait") == [wait]
    assert await found(state="cancelled") == [echo[1]]
    assert await found(state="queued", agent="echo") == [echo[2], echo[0]]
    assert await found(state="finished") == []
    assert await found(agent="nobody") == []
    first = (await http.get(RUNS, params={"agent": "echo", "limit": "2"})).json()
    assert await found(agent="echo", cursor=first["nextCursor"]) == [echo[0]]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        *((f"limit={value}", "/limit") for value in ("0", "-1", "501", "1_0", "01", "%2B5", "a", "%20", "9" * 30)),
        *((f"state={value}", "/state") for value in ("running", "QUEUED", "queued%00")),
        *(
            (f"cursor={value}", "/cursor")
            for value in ("x", "%00", "a%20b", "é", "MTIz", "MS8", "LTkvcg==x", "9" * 5000)
        ),
        ("cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5L3I", "/cursor"),
        ("agent=%00", "/agent"),
    ],
)  # fmt: skip
async def test_query_values_that_are_not_acceptable_are_refused(
    http: httpx2.AsyncClient, query: str, pointer: str
) -> None:
    """422 that names the value."""
    errors = is_problem(await http.get(f"{RUNS}?{query}"), 422)["errors"]
    assert [error["pointer"] for error in errors] == [pointer]


async def test_an_empty_query_value_counts_as_absent(http: httpx2.AsyncClient) -> None:
    """A form that sends all its fields is understood; a position alone must be a number, since 0 means everything."""
    made = (await http.post(RUNS, json={"agent": "echo"})).json()["runId"]
    listed = (await http.get(f"{RUNS}?state=&agent=&limit=&cursor=")).json()
    assert [run["runId"] for run in listed["runs"]] == [made]
    for path in ("events", "stream"):
        is_problem(await http.get(f"{RUNS}/{made}/{path}?fromSeq="), 422)


@pytest.mark.parametrize("micros", ["0", "-62135596800000000", "253402300799999999", "-999999999999999999"])
async def test_a_forged_cursor_never_breaks_the_server(http: httpx2.AsyncClient, micros: str) -> None:
    """The ends of time: listed or refused."""
    cursor = base64.urlsafe_b64encode(f"{micros}/r".encode()).decode().rstrip("=")
    assert (await http.get(RUNS, params={"cursor": cursor})).status_code in (200, 422)


async def test_show_has_every_field_and_times_in_utc(settings: Callable[..., Settings]) -> None:
    """The contract's fields, RFC 3339 with Z, and what the agent returned or raised."""
    tailrace_app = tailrace.App(settings())
    for name, agent in agents.agents.items():
        tailrace_app.agent(name)(agent)
    asgi, on_close = tailrace_app.asgi(), ends_streams(tailrace_app)
    async with serving(asgi, on_close=on_close) as port, tailrace.Client(f"http://127.0.0.1:{port}") as client:
        for name, given in (("echo", {"z": 1, "a": None}), ("fail", "no\u2028good")):
            await client.start(name, given, run_id=name)
            async for _ in client.stream(name):
                pass
        # Events reach the streams before the outbox has committed that it published them.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await tailrace_app.services().outbox.backlog())[0]:
                pass
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}{RUNS}", timeout=PATIENCE_SECONDS) as http:
            done, failed = (await http.get("/echo")).json(), (await http.get("/fail")).json()
    required = {
        "runId",
        "agent",
        "state",
        "input",
        "output",
        "startedAt",
        "finishedAt",
        "lastSeq",
        "nextSeq",
        "backlog",
    }
    assert required <= done.keys()
    assert required <= failed.keys()
    for run in (done, failed):
        assert (run["lastSeq"], run["nextSeq"], run["backlog"]) == (2, 3, 0)
        for name in ("startedAt", "finishedAt", "createdAt", "updatedAt"):
            assert run[name].endswith("Z")
            assert datetime.fromisoformat(run[name]).utcoffset() is not None
        assert run["createdAt"] <= run["startedAt"] <= run["finishedAt"]
    assert (done["state"], done["output"], list(done["output"])) == ("finished", {"z": 1, "a": None}, ["z", "a"])
    assert (failed["state"], failed["output"]) == ("failed", None)
    assert failed["error"] == {"class": "ValueError", "message": "no\u2028good"}


# -- events ------------------------------------------------------------------------------------------------------


async def test_published_events_are_paged_by_next_from_seq(http: httpx2.AsyncClient, server: Reading) -> None:
    """Each event once, as on the stream, whatever the page's size; at the end the position stays."""
    run = await server.run()
    await run.append_many(9, {"z": 1, "a": 2})
    await server.publish()
    for limit in (1, 3, 10, 1000):
        seen: list[int] = []
        position = 0
        while True:
            page = (await http.get(f"{RUNS}/r/events", params={"fromSeq": position, "limit": limit})).json()
            assert list(page) == ["events", "nextFromSeq"]
            if not page["events"]:
                assert page["nextFromSeq"] == position == 10
                break
            seen += [event["seq"] for event in page["events"]]
            position = page["nextFromSeq"]
            assert position == seen[-1]
        assert seen == list(range(1, 11))
    (event,) = (await http.get(f"{RUNS}/r/events?fromSeq=1&limit=1")).json()["events"]
    assert list(event) == ["runId", "seq", "ts", "type", "v", "source", "name", "data"]
    assert list(event["data"]) == ["z", "a"]
    assert (await http.get(f"{RUNS}/r/events?fromSeq=99")).json() == {"events": [], "nextFromSeq": 99}


@pytest.mark.parametrize("position", [2**63 - 1, 2**63, 10**19 - 1])
async def test_after_a_position_that_no_seq_can_have_there_are_no_events(
    http: httpx2.AsyncClient, server: Reading, position: int
) -> None:
    """An empty page, also before Postgres has a general plan: until then it counts on with the position itself."""
    run = await server.run()
    await run.finish()
    await server.publish()
    page = await http.get(f"{RUNS}/r/events?fromSeq={position}")
    assert (page.status_code, page.json()) == (200, {"events": [], "nextFromSeq": 2**63 - 1})


async def test_what_is_only_persisted_is_not_among_the_events(http: httpx2.AsyncClient, server: Reading) -> None:
    """Published means handed to the bus by the outbox, and only then visible."""
    run = await server.run()
    assert (await http.get(f"{RUNS}/r/events")).json() == {"events": [], "nextFromSeq": 0}
    await server.publish()
    await run.append_many(3)
    page = (await http.get(f"{RUNS}/r/events")).json()
    assert [event["seq"] for event in page["events"]] == [1]
    shown = (await http.get(f"{RUNS}/r")).json()
    assert (shown["lastSeq"], shown["nextSeq"], shown["backlog"]) == (4, 2, 3)


@pytest.mark.parametrize("value", ["0", "-1", "1001", "1_0", "a", "01"])
async def test_a_limit_of_events_that_is_not_acceptable_is_refused(http: httpx2.AsyncClient, value: str) -> None:
    """1 to 1,000."""
    is_problem(await http.get(f"{RUNS}/r/events?limit={value}"), 422)


# -- cancel ------------------------------------------------------------------------------------------------------


async def test_a_queued_run_is_cancelled_at_once_and_only_once(http: httpx2.AsyncClient, server: Reading) -> None:
    """202 and `cancelled`; the second time 409; unknown 404."""
    await http.post(RUNS, json={"agent": "echo", "runId": "mine"})
    answer = await http.post(f"{RUNS}/mine/cancel")
    assert answer.status_code == 202
    assert (answer.json()["state"], answer.json()["lastSeq"]) == ("cancelled", 2)
    is_problem(await http.post(f"{RUNS}/mine/cancel"), 409)
    is_problem(await http.post(f"{RUNS}/nobody/cancel"), 404)
    await server.publish()
    assert await server.all_of("mine") == [1, 2]


async def test_a_started_run_is_asked_to_end(http: httpx2.AsyncClient, server: Reading) -> None:
    """202 as often as it is asked, while its worker has not ended it; then 409."""
    run = await server.run()
    for _ in range(2):
        answer = await http.post(f"{RUNS}/r/cancel")
        assert answer.status_code == 202
        assert answer.json()["state"] == "started"
        assert answer.json()["cancelRequestedAt"] is not None
    await run.finish()
    is_problem(await http.post(f"{RUNS}/r/cancel"), 409)


# -- paths and methods -------------------------------------------------------------------------------------------

TRICKS = (
    *("a%2Fb", "%2e%2e", "..", "../..", "%2E%2E%2F", "%2F", "..%00", "%00", "a%00b", "a%20b", "a%0Ab", "a%0D%0AX:%20y"),
    *("%C3%A9", "%FF", "%", "%zz", "%25", "%F0%9F%98%80", "%E2%80%A8", "a;b", "a,b", "{runId}", "*", "_x", "-x"),
    *("x" * 200, "x" * 60_000),
)


async def test_no_run_id_in_a_path_breaks_the_server(server: Reading) -> None:
    """Bytes that no run id can have, sent as they are: 404, 405 or a malformed request, never 500."""
    await server.run()
    for trick in TRICKS:
        for method, path in (
            ("GET", f"{RUNS}/{trick}"),
            ("GET", f"{RUNS}/{trick}/events"),
            ("GET", f"{RUNS}/{trick}/stream"),
            ("POST", f"{RUNS}/{trick}/cancel"),
        ):
            async with request(server.port, path, method=method) as answer:
                body = await answer.rest()
                assert answer.status in (400, 404, 405, 414), (path[:60], answer.status, body[:100])
                if answer.status != 400:
                    assert json.loads(body)["status"] == answer.status
                    assert len(body) < 100_000


@pytest.mark.parametrize("host", ["[", "a b", "x:y", "", "é", "[::1", "a/b", "\x7f"])
async def test_no_host_header_breaks_the_server(server: Reading, host: str) -> None:
    """A malformed Host is the client's mistake."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(f"GET /nowhere HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = await reader.read()
        assert head.split(b" ")[1] in (b"400", b"404"), head[:200]
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/api/agents/run", 404),
        ("GET", f"{RUNS}/", 404),
        ("GET", f"{RUNS}/r/nothing", 404),
        ("GET", "/docs", 404),
        ("PUT", RUNS, 405),
        ("OPTIONS", RUNS, 405),
        ("DELETE", f"{RUNS}/r", 405),
        ("POST", f"{RUNS}/r/stream", 405),
        ("GET", f"{RUNS}/r/cancel", 405),
        ("POST", "/healthz", 405),
        ("PATCH", RUNS, 405),
    ],
)
async def test_what_is_not_served_is_a_problem_too(
    http: httpx2.AsyncClient, method: str, path: str, status: int
) -> None:
    """404 and 405, the latter with `Allow`."""
    answer = await http.request(method, path)
    is_problem(answer, status)
    assert (status == 405) == ("allow" in answer.headers)
    if path in ALLOWED:
        assert answer.headers["allow"] == ALLOWED[path]


# -- operations --------------------------------------------------------------------------------------------------


async def test_the_probes_say_alive_and_ready(http: httpx2.AsyncClient) -> None:
    """200 each, in a process that has all it needs; also to a monitor that asks by HEAD."""
    assert (await http.get("/healthz")).status_code == 200
    ready = await http.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    for path in ("/healthz", "/readyz"):
        head = await http.head(path)
        assert (head.status_code, head.content) == (200, b"")


async def test_a_schema_that_is_behind_is_not_ready(http: httpx2.AsyncClient, server: Reading) -> None:
    """503 that names the command to run; alive all the same."""
    await execute(server.database, "delete from tailrace.schema_migrations")
    document = is_problem(await http.get("/readyz"), 503)
    assert "tailrace db upgrade" in document["detail"]
    assert (await http.get("/healthz")).status_code == 200


async def test_a_database_that_is_away_is_not_ready_and_every_call_says_try_again(
    http: httpx2.AsyncClient, server: Reading
) -> None:
    """503 with `Retry-After`; metrics still answer, and all works again afterwards."""
    await server.run()
    pool, server.database._pool = server.database._pool, None
    try:
        for call in (f"GET {RUNS}", f"GET {RUNS}/r", f"GET {RUNS}/r/events", f"POST {RUNS}/r/cancel", "GET /readyz"):
            answer = await http.request(*call.split(" "))
            is_problem(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
        assert (await http.get("/metrics")).status_code == 200
        assert (await http.get("/healthz")).status_code == 200
    finally:
        server.database._pool = pool
    assert (await http.get("/readyz")).status_code == 200


METRICS = {
    "tailrace_runs_started_total",
    *(f'tailrace_runs_finished_total{{state="{state}"}}' for state in ("finished", "failed", "cancelled")),
    "tailrace_events_persisted_total",
    "tailrace_events_published_total",
    "tailrace_outbox_lag_seconds_count",
    "tailrace_outbox_lag_seconds_sum",
    "tailrace_outbox_backlog_events",
    "tailrace_outbox_oldest_unpublished_seconds",
    "tailrace_streams_active",
    "tailrace_stream_reconnects_total",
    "tailrace_time_to_first_node_seconds_count",
    "tailrace_runs_stalled",
}


async def test_every_metric_of_the_contract_is_there_and_moves(
    settings: Callable[..., Settings], database: Database
) -> None:
    """After a run of each end, two open streams and one that came back."""
    app = tailrace.App(settings())
    for name, agent in agents.agents.items():
        app.agent(name)(agent)
    async with serving(app.asgi(), on_close=ends_streams(app)) as port:
        url = f"http://127.0.0.1:{port}"
        async with tailrace.Client(url) as client, httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as http:
            before = _metrics((await http.get("/metrics")).text)
            assert before.keys() >= METRICS
            for name in ("echo", "fail", "wait"):
                await client.start(name, "x", run_id=name)
            async for event in client.stream("wait"):
                if event.type == "NodeStarted":
                    async with request(port, f"{RUNS}/wait/stream?fromSeq=1") as back:
                        await back.event()
                        assert _metrics((await http.get("/metrics")).text)["tailrace_streams_active"] == 2
                    await client.cancel("wait")
            for name in ("echo", "fail"):
                async for _ in client.stream(name):
                    pass
            # Events reach the streams before the outbox has committed and counted that it published them.
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    found = _metrics((await http.get("/metrics")).text)
                    # Nor has the worker told of an end as soon as it is written.
                    ended = sum(found[name] for name in METRICS if name.startswith("tailrace_runs_finished_total"))
                    if (
                        found["tailrace_events_published_total"] == found["tailrace_events_persisted_total"]
                        and ended == 3
                    ):
                        break
    assert found["tailrace_runs_started_total"] == 3
    for state in ("finished", "failed", "cancelled"):
        assert found[f'tailrace_runs_finished_total{{state="{state}"}}'] == 1
    assert found["tailrace_events_persisted_total"] == found["tailrace_events_published_total"]
    assert found["tailrace_outbox_lag_seconds_count"] == found["tailrace_events_published_total"]
    assert found["tailrace_stream_reconnects_total"] == 1
    assert found["tailrace_time_to_first_node_seconds_count"] == 1
    assert found["tailrace_outbox_backlog_events"] == 0


def _metrics(text: str) -> dict[str, float]:
    rows = [row.rsplit(" ", 1) for row in text.splitlines() if row and not row.startswith("#")]
    return {name: float(value) for name, value in rows}


async def test_the_openapi_document_describes_what_is_served(http: httpx2.AsyncClient) -> None:
    """Every reference leads somewhere, every schema is a schema, every path parameter is declared, every refusal is a
    problem, and what is described is what is there.
    """
    document = (await http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == tailrace.__version__
    operations = {
        (method, path): operation for path, item in document["paths"].items() for method, operation in item.items()
    }
    assert {(method, path) for method, path in operations if path.startswith("/api")} >= {
        ("post", RUNS), ("get", RUNS), ("get", f"{RUNS}/{{runId}}"), ("get", f"{RUNS}/{{runId}}/events"),
        ("get", f"{RUNS}/{{runId}}/stream"), ("post", f"{RUNS}/{{runId}}/cancel"),
    }  # fmt: skip
    assert len({operation["operationId"] for operation in operations.values()}) == len(operations)
    for (method, path), operation in operations.items():
        declared = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
        assert declared == ({"runId"} if "{runId}" in path else set()), (method, path)
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                assert list(answer.get("content", {})) == ["application/problem+json"], (method, path, status)
    for name, schema in document["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert name != "HTTPValidationError", "FastAPI's own refusals are never sent"
    for reference in _references(document):
        found = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def _references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


async def test_answers_fit_the_schemas_of_the_openapi_document(http: httpx2.AsyncClient, server: Reading) -> None:
    """The document is generated from the same shapes, and this is the proof."""
    document = (await http.get("/openapi.json")).json()
    run = await server.run()
    await run.append_many(2, {"a": 1})
    await run.finish()
    await server.publish()
    for path, name in (
        (f"{RUNS}/r", "RunView"),
        (RUNS, "RunList"),
        (f"{RUNS}/r/events", "EventPage"),
        (f"{RUNS}/nobody", "Problem"),
    ):
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        Draft202012Validator(schema).validate((await http.get(path)).json())


# -- mounted -----------------------------------------------------------------------------------------------------


async def test_mounted_under_a_prefix_it_works_with_one_line(settings: Callable[..., Settings]) -> None:
    """`FastAPI(lifespan=app.lifespan)` and `mount`: start, Location, stream, and the host's own routes beside it."""
    app = tailrace.App(settings())
    app.agent("echo")(agents.agents["echo"])
    host = FastAPI(lifespan=app.lifespan)
    host.mount("/deep/tailrace", app.asgi())

    @host.get("/own")
    async def own() -> str:
        return "mine"

    async with serving(host, on_close=ends_streams(app)) as port:
        root = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient(base_url=root, timeout=PATIENCE_SECONDS) as http:
            answer = await http.post(f"/deep/tailrace{RUNS}", json={"agent": "echo", "input": 1})
            assert answer.status_code == 201
            assert answer.headers["location"] == f"/deep/tailrace{RUNS}/{answer.json()['runId']}"
            assert (await http.get(answer.headers["location"])).json()["runId"] == answer.json()["runId"]
            assert (await http.get("/own")).json() == "mine"
            assert (await http.get("/deep/tailrace/readyz")).status_code == 200
            is_problem(await http.get("/deep/tailrace/nowhere"), 404)
            assert (await http.get(RUNS)).status_code == 404
        async with tailrace.Client(f"{root}/deep/tailrace") as client:
            run = await client.start("echo", 2)
            assert [event.type async for event in client.stream(run.run_id)] == ["RunStarted", "RunFinished"]


async def test_mounted_and_not_started_it_says_what_is_missing() -> None:
    """503 whose text names the lifespan; a stream is asked to come again; alive all the same."""
    host = FastAPI()
    host.mount("/tailrace", tailrace.App().asgi())
    async with serving(host) as port:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}/tailrace", timeout=PATIENCE_SECONDS) as http:
            for path in (RUNS, f"{RUNS}/r", f"{RUNS}/r/events", "/readyz", "/metrics"):
                assert "lifespan" in is_problem(await http.get(path), 503)["detail"]
            assert "lifespan" in is_problem(await http.post(RUNS, json={"agent": "echo"}), 503)["detail"]
            assert (await http.get("/healthz")).status_code == 200
        async with request(port, f"/tailrace{RUNS}/r/stream") as answer:
            assert answer.status == 200
            assert (await answer.rest()).startswith(b"retry: ")


async def test_an_error_that_nobody_foresaw_is_a_problem_without_its_text(
    server: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 tells where the server's log has it, and nothing of the inside."""

    async def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(type(server.services.runs), "get", breaks)
    async with request(server.port, f"{RUNS}/r") as answer:
        body = await answer.rest()
    assert answer.status == 500
    assert answer.header("content-type") == "application/problem+json"
    assert b"hunter2" not in body


async def test_events_of_one_run_are_not_those_of_another(http: httpx2.AsyncClient, server: Reading) -> None:
    """Ids that sort beside each other, or contain each other, are different runs."""
    for run_id in ("r", "r1", "r:1", "R", "r."):
        run = await HandWrittenRun.start(server.database, run_id)
        await run.append_many(1, {"of": run_id})
    await publish_all(server.database, server.services.bus)
    for run_id in ("r", "r1", "r:1", "R", "r."):
        page = (await http.get(f"{RUNS}/{run_id}/events")).json()["events"]
        assert [event["runId"] for event in page] == [run_id] * 2
        assert page[1]["data"] == {"of": run_id}
