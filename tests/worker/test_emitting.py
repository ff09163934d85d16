"""What an agent may say, and in which order it is heard."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Any

import pytest

import tailrace
from tailrace.model.run import RunState
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.telemetry import FirstNode
from tests.write_support import running, types, verified_log

MakeSettings = Callable[..., Settings]


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"d": value}
    return value


BAD = [
    {"n": float("nan")}, {"n": float("inf")}, {"s": "\x00"}, {"s": "\ud800"}, {"k\x00": 1}, {"\udc00": 1}, nested(65),
    {"n": 2**64}, {"n": -(2**63) - 1}, {1: 2}, {"b": b"x"}, {"s": {1}}, {"o": object()}, {"d": 1j},
    [], [1], "text", 5, 1.5, True, object(),
]  # fmt: skip


async def test_data_that_is_not_a_strict_json_object_is_refused_and_the_run_goes_on(
    database: Database, settings: MakeSettings
) -> None:
    """Each raises InvalidEvent where it was emitted, before any SQL, and leaves no trace and no gap."""
    refusals: list[type[BaseException]] = []

    async def agent(run: tailrace.Run) -> None:
        for data in BAD:
            try:
                await run.emit("Bad", data)  # type: ignore[arg-type] # that it is wrong is the point
            except tailrace.InvalidEvent as error:
                refusals.append(type(error))
        says: list[Callable[[Any], Awaitable[None]]] = [run.emit, run.trace]
        for name in ("", "n" * 257, "\x00", "\ud800", None, 5):
            for say in says:
                try:
                    await say(name)
                except tailrace.InvalidEvent as error:
                    refusals.append(type(error))
        await run.emit("Good", {"n": 1})

    async with running(settings(), agent) as app:
        run = await app.ended(await app.start())
    assert run.state == RunState.FINISHED
    assert refusals == [tailrace.InvalidEvent] * (len(BAD) + 12)
    assert types(await verified_log(database, run.id)) == ["RunStarted", "Custom", "RunFinished"]


GOOD: list[Any] = [
    {}, None, nested(64), {"n": 2**64 - 1, "m": -(2**63)}, {"s": "é\u2028\U0001f600\n\r"}, {"t": (1, [2])},
    MappingProxyType({"a": 1}), {"z": 1, "a": 2},
]  # fmt: skip


async def test_strict_json_arrives_as_it_was_said(database: Database, settings: MakeSettings) -> None:
    """Any mapping, in its own order; no data is no data, and an empty object is one."""

    async def agent(run: tailrace.Run) -> None:
        for data in GOOD:
            await run.emit("Good", data)

    async with running(settings(), agent) as app:
        run = await app.ended(await app.start())
    log = (await verified_log(database, run.id))[1:-1]
    expected = [
        None if data is None else json.dumps(dict(data), ensure_ascii=False, separators=(",", ":")) for data in GOOD
    ]
    assert [event.data for event in log] == expected


@pytest.mark.parametrize("limit", [256, 4096, 65536])
async def test_data_of_exactly_the_limit_passes_and_one_byte_more_does_not(
    database: Database, settings: MakeSettings, limit: int
) -> None:
    """TAILRACE_MAX_EVENT_BYTES counts the JSON as UTF-8."""
    room = limit - len('{"d":""}')
    fits = ["x" * room, "é" * (room // 2) + "x" * (room % 2)]
    sizes: list[str] = []

    async def agent(run: tailrace.Run) -> None:
        for text in fits:
            await run.emit("Fits", {"d": text})
            try:
                await run.emit("TooLarge", {"d": text + "x"})
            except tailrace.EventTooLarge as error:
                sizes.append(str(error))

    async with running(settings(max_event_bytes=limit), agent) as app:
        run = await app.ended(await app.start())
    assert run.state == RunState.FINISHED
    assert [f"takes {limit + 1} bytes" in size for size in sizes] == [True, True]
    log = (await verified_log(database, run.id))[1:-1]
    assert [len((event.data or "").encode()) for event in log] == [limit, limit]


async def test_tasks_that_emit_at_once_keep_the_order_of_their_calls(
    database: Database, settings: MakeSettings
) -> None:
    """No gaps, and each task's own events in its own order."""

    async def agent(run: tailrace.Run) -> None:
        async def say(task: int) -> None:
            for number in range(10):
                await run.emit("Said", {"task": task, "n": number})

        async with asyncio.TaskGroup() as group:
            for task in range(20):
                group.create_task(say(task))
        # One after another without waiting: the calls' order is the log's.
        await asyncio.gather(*(run.emit("Burst", {"n": number}) for number in range(100)))

    async with running(settings(), agent) as app:
        run = await app.ended(await app.start())
    log = await verified_log(database, run.id)
    said = [json.loads(event.data or "") for event in log if event.name == "Said"]
    for task in range(20):
        assert [data["n"] for data in said if data["task"] == task] == list(range(10))
    burst = [json.loads(event.data or "")["n"] for event in log if event.name == "Burst"]
    assert burst == list(range(100))
    assert len(log) == 302


async def test_an_emit_has_happened_when_it_returns(database: Database, settings: MakeSettings) -> None:
    """Another connection sees the row at that moment: durable first, then the agent goes on."""
    seen: list[int] = []

    async def agent(run: tailrace.Run) -> None:
        for _ in range(5):
            await run.trace("x")
            seen.append(len(await verified_log(database, run.id)))

    async with running(settings(), agent) as app:
        await app.ended(await app.start())
    assert seen == [2, 3, 4, 5, 6]


async def test_the_first_node_is_told_once(settings: MakeSettings) -> None:
    """Time to the first node, once per run, however many nodes it has."""

    async def agent(run: tailrace.Run) -> None:
        for name in ("A", "B"):
            async with run.node(name):
                await run.trace("x")

    async with running(settings(), agent) as app:
        run_id = await app.start()
        await app.ended(run_id)
        assert [told.run_id for told in app.told.of(FirstNode)] == [run_id]


async def test_nodes_within_nodes_are_logged_as_they_open_and_close(database: Database, settings: MakeSettings) -> None:
    """Names go with both ends."""

    async def agent(run: tailrace.Run) -> None:
        async with run.node("Outer"):
            async with run.node("Inner"):
                pass
            await run.step("Step", len, "abc")

    async with running(settings(), agent) as app:
        run = await app.ended(await app.start())
    log = await verified_log(database, run.id)
    assert [(event.type, event.name) for event in log[1:-1]] == [
        ("NodeStarted", "Outer"), ("NodeStarted", "Inner"), ("NodeFinished", "Inner"), ("NodeStarted", "Step"),
        ("NodeFinished", "Step"), ("NodeFinished", "Outer"),
    ]  # fmt: skip
