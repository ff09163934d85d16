"""The event stream over a real HTTP server, byte for byte."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import httpx2
import pytest

from tailrace.http import ending
from tailrace.model import draft
from tailrace.model.run import RunState
from tailrace.read import channel as channels
from tailrace.settings import Settings
from tests import read_support
from tests.patience import PATIENCE_SECONDS
from tests.read_support import RUNS, HookedEvents, RawAnswer, Reading, away, custom, execute, reading, request, until

BAD_POSITIONS = {
    "underscore": "1_000",
    "plus": "+5",
    "minus": "-1",
    "leading-space": " 5",
    "trailing-line-break": "5\n",
    "full-width": "５",  # noqa: RUF001 - the point of it
    "superscript": "²",
    "leading-zero": "01",
    "20-digits": "1" * 20,
    "hexadecimal": "0x10",
    "float": "1.0",
    "exponent": "1e3",
    "words": "abc",
    "nul": "5\x00",
}


@pytest.fixture(autouse=True, params=["own-server", "asgi"])
def end_of_the_read_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here holds for streams that leave ASGI and for those that stay in it."""
    monkeypatch.setattr(read_support, "OWN_SERVER", request.param == "own-server")


@pytest.fixture
async def server(settings: Callable[..., Settings]) -> AsyncIterator[Reading]:
    async with reading(settings(heartbeat_seconds=30)) as made:
        yield made


# -- what it looks like ------------------------------------------------------------------------------------------


async def test_the_head_of_a_stream_is_exactly_what_proxies_and_browsers_need(server: Reading) -> None:
    """No charset parameter, no caching, no transformation, no buffering."""
    await server.run()
    await server.publish()
    async with server.stream() as answer:
        assert answer.status == 200
        assert answer.header("content-type") == "text/event-stream"
        assert answer.header("cache-control") == "no-cache, no-transform"
        assert answer.header("x-accel-buffering") == "no"
        assert answer.header("content-length") is None
        assert answer.header("content-encoding") is None


async def test_a_stream_begins_with_retry_and_then_has_two_lines_an_event(server: Reading) -> None:
    """`retry:`, then `id:` and `data:` and a blank line for each; LF alone; the last block is the terminal event."""
    run = await server.run()
    await run.append(custom({"done": 3}))
    await run.finish()
    await server.publish()
    async with server.stream() as answer:
        text = await answer.rest()
    assert text == (
        b"retry: 1000\n\n"
        b'id: 1\ndata: {"runId":"r","seq":1,"ts":1790000000000,"type":"RunStarted","v":1,"source":"outbox"}\n\n'
        b'id: 2\ndata: {"runId":"r","seq":2,"ts":1790000000000,"type":"Custom","v":1,"source":"outbox",'
        b'"name":"Progress","data":{"done":3}}\n\n'
        b'id: 3\ndata: {"runId":"r","seq":3,"ts":1790000000001,"type":"RunFinished","v":1,"source":"outbox"}\n\n'
    )


async def test_line_separators_in_names_and_data_stay_inside_their_line(server: Reading) -> None:
    """CR, LF, CRLF, U+2028, U+2029, U+0085 and a fake frame arrive unchanged and split nothing."""
    evil = "a\rb\nc\r\nd\u2028e\u2029f\u0085g\n\nid: 99\ndata: {}\n\n"
    run = await server.run()
    await run.append(custom({evil: evil}, name=evil))
    await run.finish()
    await server.publish()
    async with server.stream() as answer:
        text = await answer.rest()
    assert b"\r" not in text
    assert b"event:" not in text
    assert text.count(b"\n") == 2 + 3 * 3
    found = json.loads(text.split(b"\n\n")[2].split(b"\n")[1].removeprefix(b"data: "))
    assert (found["name"], found["data"]) == (evil, {evil: evil})
    assert list(found) == ["runId", "seq", "ts", "type", "v", "source", "name", "data"]


async def test_data_is_passed_on_as_it_was_written(server: Reading) -> None:
    """Key order, large integers and floats are not touched on the way."""
    run = await server.run()
    await run.append(custom({"z": 1, "a": {"y": 2**63, "b": -(2**63)}, "f": 1.0, "u": "😀 é"}))
    await server.publish()
    async with server.stream(query="?fromSeq=1") as answer:
        await answer.block()
        block = await answer.block()
    assert block is not None
    expected = '"data":{"z":1,"a":{"y":9223372036854775808,"b":-9223372036854775808},"f":1.0,"u":"😀 é"}}\n\n'
    assert block.decode().endswith(expected)


# -- where it begins ---------------------------------------------------------------------------------------------


async def test_from_every_position_exactly_the_later_events_follow(server: Reading) -> None:
    """By `fromSeq` and by `Last-Event-ID`, for each seq of the run; at the last one 204."""
    run = await server.run()
    await run.append_many(5)
    last = await run.finish()
    await server.publish()
    for position in range(last):
        later = list(range(position + 1, last + 1))
        assert await server.all_of(query=f"?fromSeq={position}") == later
        assert await server.all_of(last_event_id=str(position)) == later
    assert await server.all_of() == list(range(1, last + 1))
    for how in ({"query": f"?fromSeq={last}"}, {"last_event_id": str(last)}):
        async with server.stream(**how) as answer:
            assert answer.status == 204
            assert await answer.rest() == b""


async def test_last_event_id_wins_over_from_seq(server: Reading) -> None:
    """A browser sends its first URL again and again; the header is the newer of the two.  Empty, it is absent."""
    run = await server.run()
    await run.append_many(3)
    last = await run.finish()
    await server.publish()
    assert await server.all_of(query="?fromSeq=1", last_event_id="3") == [4, 5]
    assert await server.all_of(query="?fromSeq=4", last_event_id="0") == [1, 2, 3, 4, 5]
    assert await server.all_of(query="?fromSeq=3", last_event_id="") == [4, 5]
    async with server.stream(query="?fromSeq=0", last_event_id=str(last)) as answer:
        assert answer.status == 204


async def test_a_position_past_the_terminal_event_is_answered_204(server: Reading) -> None:
    """Any other answer would let an `EventSource` try again for ever."""
    run = await server.run()
    last = await run.finish()
    await server.publish()
    for position in (last, last + 1, 2**63 - 1, 2**63, 10**19 - 1):
        async with server.stream(query=f"?fromSeq={position}") as answer:
            assert answer.status == 204


async def test_a_position_beyond_the_log_of_a_run_in_progress_is_a_conflict(server: Reading) -> None:
    """Its client was never given that seq, so it must hear that it is wrong, not wait in silence."""
    run = await server.run()
    await run.append_many(2)
    await server.publish()
    for position in (run.last_seq + 1, 2**63 - 1, 2**63, 10**19 - 1):
        async with server.stream(query=f"?fromSeq={position}") as answer:
            assert answer.status == 409
            assert answer.header("content-type") == "application/problem+json"
    assert server.services.streams_open == 0


async def test_a_position_that_is_persisted_and_not_published_is_not_a_conflict(server: Reading) -> None:
    """A publisher may die between the bus and the mark; its clients are ahead of the mark and must be let in."""
    run = await server.run()
    await run.append_many(2)
    async with server.stream(query=f"?fromSeq={run.last_seq}") as answer:
        assert answer.status == 200
        await run.append_many(1)
        await server.publish()
        found = await answer.event()
        assert found is not None
        assert found["seq"] == run.last_seq


@pytest.mark.parametrize("position", BAD_POSITIONS.values(), ids=list(BAD_POSITIONS))
async def test_a_position_that_is_not_plain_digits_is_refused(server: Reading, position: str) -> None:
    """`int()` takes underscores, signs, spaces and foreign digits; a position is `0|[1-9][0-9]{0,18}`."""
    await server.run()
    async with httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as http:
        for path in ("stream", "events"):
            answer = await http.get(f"{RUNS}/r/{path}", params={"fromSeq": position})
            assert answer.status_code == 422
            assert answer.headers["content-type"] == "application/problem+json"
            assert [error["pointer"] for error in answer.json()["errors"]] == ["/fromSeq"]
    if position.isprintable() and position == position.strip():
        async with server.stream(last_event_id=position) as raw:
            assert raw.status == 422
            assert [error["pointer"] for error in json.loads(await raw.rest())["errors"]] == ["/Last-Event-ID"]


async def test_an_unknown_run_is_not_found(server: Reading) -> None:
    """For ids that could exist and for those that could not."""
    for run_id in ("nobody", "x" * 128, "x" * 129, "_under", "%00", "%E2%80%A8", "a%20b"):
        async with server.stream(run_id) as answer:
            assert answer.status == 404
            assert answer.header("content-type") == "application/problem+json"
    assert server.services.hub.watched_runs == 0


# -- that nothing is lost or doubled -----------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before_tails", "after_tails", "after_page"])
async def test_events_published_while_the_stream_attaches_arrive_once(server: Reading, moment: str) -> None:
    """Around the tail query and in the midst of backfill, over the App's own bus."""
    run = await server.run()
    await run.append_many(4)
    await server.publish()
    hooked = HookedEvents(server.database)

    async def meanwhile() -> None:
        await run.append_many(3)
        await run.finish()
        await server.publish()

    setattr(hooked, moment, meanwhile)
    server.use(hooked)
    assert await server.all_of() == list(range(1, 10))


async def test_a_gap_in_the_live_feed_is_filled(server: Reading) -> None:
    """Two messages of the bus are lost; the third brings all three."""
    run = await server.run()
    await server.publish()
    async with server.stream() as answer:
        await answer.upto(1)
        for _ in range(2):
            await run.append_many(2)
            await server.publish_silently()
        await run.append_many(1)
        await server.publish()
        await answer.upto(6, position=1)


async def test_a_terminal_event_whose_message_was_lost_arrives_by_the_heartbeat(
    settings: Callable[..., Settings],
) -> None:
    """Nothing comes after it that could show the gap; the comparison with the database at each heartbeat does."""
    async with reading(settings(heartbeat_seconds=0.05)) as server:
        run = await server.run()
        await server.publish()
        async with server.stream() as answer:
            await answer.upto(1)
            await run.finish()
            await server.publish_silently()
            assert await answer.seqs() == [2]


async def test_every_message_of_the_bus_may_be_lost(settings: Callable[..., Settings]) -> None:
    """Losing the whole bus costs latency, never an event."""
    async with reading(settings(heartbeat_seconds=0.05)) as server:
        run = await server.run()
        async with server.stream() as one, server.stream() as other:
            for _ in range(5):
                await run.append_many(30)
                await server.publish_silently()
            await run.finish()
            await server.publish_silently()
            expected = list(range(1, run.last_seq + 1))
            assert await one.seqs() == expected
            assert await other.seqs() == expected


async def test_silence_is_broken_by_pings_without_an_id(settings: Callable[..., Settings]) -> None:
    """`: ping` and a blank line, which moves no client's position."""
    async with reading(settings(heartbeat_seconds=0.05)) as server:
        await server.run()
        await server.publish()
        async with server.stream(query="?fromSeq=1") as answer:
            assert [await answer.block() for _ in range(3)] == [b"retry: 1000\n\n", b": ping\n\n", b": ping\n\n"]


async def test_what_is_only_persisted_is_not_sent(settings: Callable[..., Settings]) -> None:
    """A stream shows an event after the outbox has handed it over, not before."""
    async with reading(settings(heartbeat_seconds=0.05)) as server:
        run = await server.run()
        await server.publish()
        await run.append_many(1)
        async with server.stream() as answer:
            await answer.block()
            assert (await answer.event() or {})["seq"] == 1
            assert await answer.block() == b": ping\n\n"
            await server.publish()
            assert (await answer.event() or {})["seq"] == 2


# -- slow readers ------------------------------------------------------------------------------------------------


async def test_a_reader_that_stops_holds_nobody_up_and_gets_everything(server: Reading) -> None:
    """One socket is not read while 3,000 events of 10 KB pass; another reader has them all meanwhile, the ring stays
    within its bound, and the first one then reads each event exactly once.
    """
    run = await server.run()
    await server.publish()
    async with request(server.port, f"{RUNS}/r/stream", receive_buffer=1 << 17) as slow, server.stream() as quick:
        await quick.upto(1)
        (watched,) = server.services.hub._watched.values()
        for _ in range(15):
            await run.append(*(custom({"text": "x" * 10_000}) for _ in range(200)))
            await server.publish()
            await quick.upto(run.last_seq, position=run.last_seq - 200)
            assert watched.channel._ring_bytes <= 2 * channels.RING_MAX_BYTES
            assert len(watched.channel._ring) <= 2 * channels.RING_MAX_FRAMES
        last = await run.finish()
        await server.publish()
        assert await quick.seqs() == [last]
        assert watched.channel.after(1) is None, "the slow reader's position must have left the ring"
        assert await slow.seqs() == list(range(1, last + 1))


@pytest.mark.parametrize("stalls_at", ["an-event", "the-end", "the-shutdown"])
async def test_a_reader_that_takes_nothing_is_let_go(settings: Callable[..., Settings], stalls_at: str) -> None:
    """Each write is bounded in time, the last one of a stream too; else a stalled client keeps its place for ever."""
    async with reading(settings(heartbeat_seconds=30, write_seconds=0.2)) as server:
        await _is_let_go(server, stalls_at)


async def _is_let_go(server: Reading, stalls_at: str) -> None:
    run = await server.run()
    await server.publish()
    async with request(server.port, f"{RUNS}/r/stream", receive_buffer=2048) as stalled:
        await stalled.upto(1)
        # More than the sockets take; it goes out in one write with what follows it, so the next write has to wait.
        large = [custom({"text": "x" * 1_000_000})]
        match stalls_at:
            case "an-event":
                await run.append(*large)
                await server.publish()
                await run.append_many(1)
            case "the-end":
                ended = draft.run_finished(1)
                await run.append(*large, ended, state=RunState.FINISHED)
            case _:
                await run.append(*large)
        await server.publish()
        if stalls_at == "the-shutdown":
            (watched,) = server.services.hub._watched.values()
            await until(lambda: watched.channel.head == 2, "the event was handed to the stream")
            server.services.hub.close()
        await until(lambda: server.services.streams_open == 0, "the stalled stream was let go")
        await until(lambda: server.services.hub.watched_runs == 0, "and its channel")


# -- trouble that passes -----------------------------------------------------------------------------------------


async def _is_asked_to_come_again(answer: RawAnswer) -> None:
    assert answer.status == 200
    assert answer.header("content-type") == "text/event-stream"
    blocks = (await answer.rest()).split(b"\n\n")
    assert blocks[-1] == b""
    assert not any(block.startswith(b"id:") for block in blocks)
    name, milliseconds = blocks[-2].split(b": ")
    low, high = ending.TROUBLE_RETRY_MS
    assert name == b"retry"
    assert low <= int(milliseconds) <= high


async def test_too_many_streams_are_asked_to_come_again(settings: Callable[..., Settings]) -> None:
    """200, a jittered `retry:` and the end: an `EventSource` gives up for ever on any other status."""
    async with reading(settings(max_streams=2)) as server:
        await server.run()
        await server.publish()
        async with server.stream() as one, server.stream() as other:
            await one.upto(1)
            await other.upto(1)
            async with server.stream() as third:
                await _is_asked_to_come_again(third)
        await until(lambda: server.services.streams_open == 0, "the first two are gone")
        async with server.stream() as fourth:
            await fourth.upto(1)


async def test_the_bound_on_streams_holds_for_those_that_come_at_once(settings: Callable[..., Settings]) -> None:
    """After a restart all clients come back in one moment: no more than the bound may be let in, even then."""
    async with reading(settings(max_streams=3)) as server, AsyncExitStack() as stack:
        await server.run()
        await server.publish()
        hooked = HookedEvents(server.database)
        at_the_query = asyncio.Event()
        hooked.before_tails = at_the_query.wait
        server.use(hooked)
        opening = [asyncio.create_task(stack.enter_async_context(server.stream())) for _ in range(12)]
        # The first waits in its tail query until the others have been answered or have passed it.
        await until(lambda: sum(each.done() for each in opening) >= 9, "the others were answered")
        at_the_query.set()
        answers = await asyncio.gather(*opening)
        first_blocks = [await answer.block() for answer in answers]
        assert first_blocks.count(b"retry: 1000\n\n") == 3
        assert server.services.streams_open == 3


async def test_a_database_that_is_away_asks_a_new_stream_to_come_again(server: Reading) -> None:
    """And once it is back, the same request is served."""
    await server.run()
    await server.publish()
    with away(server.services):
        async with server.stream() as answer:
            await _is_asked_to_come_again(answer)
    async with server.stream() as answer:
        await answer.upto(1)


async def test_a_database_that_goes_away_ends_an_open_stream_and_its_client_resumes(server: Reading) -> None:
    """In the midst of backfill: the stream ends with `retry:`, and nothing is lost or doubled on the next one."""
    run = await server.run()
    await run.append_many(400)
    last = await run.finish()
    await server.publish()
    hooked = HookedEvents(server.database)
    troubled = AsyncExitStack()

    async def goes() -> None:
        troubled.enter_context(away(server.services))

    hooked.after_page = goes
    server.use(hooked)
    async with server.stream() as answer:
        seen = await answer.seqs()
    assert 0 < len(seen) < last
    await troubled.aclose()
    assert seen + await server.all_of(last_event_id=str(seen[-1])) == list(range(1, last + 1))


async def test_a_closing_server_asks_to_come_again(server: Reading) -> None:
    """Open streams end with `retry:`, and so does one that comes in that moment."""
    await server.run()
    await server.publish()
    async with server.stream() as answer:
        await answer.upto(1)
        server.services.hub.close()
        await _is_asked_to_come_again(answer)
        async with server.stream() as late:
            await _is_asked_to_come_again(late)


async def test_a_stream_ends_at_its_age_and_its_client_resumes(settings: Callable[..., Settings]) -> None:
    """Rotation: a clean end with a `retry:`, and each event once over all the streams."""
    async with reading(settings(stream_max_seconds=0.05, heartbeat_seconds=0.02)) as server:
        run = await server.run()
        seen: list[int] = []
        rotations = 0
        while not seen or seen[-1] < 40:
            async with server.stream(last_event_id=str(len(seen))) as answer:
                await run.append_many(4)
                await server.publish()
                blocks = (await answer.rest()).split(b"\n\n")
            seen += [int(block.split(b"\n")[0][4:]) for block in blocks if block.startswith(b"id: ")]
            assert blocks[-2].startswith(b"retry: ")
            rotations += 1
        assert rotations > 1
        assert seen == list(range(1, len(seen) + 1))


# -- clients that go away ----------------------------------------------------------------------------------------


async def test_a_client_that_vanishes_frees_its_stream_and_its_channel(server: Reading) -> None:
    """Noticed at once, without waiting for something to send."""
    await server.run()
    await server.publish()
    async with AsyncExitStack() as stack:
        for _ in range(20):
            answer = await stack.enter_async_context(server.stream())
            await answer.upto(1)
        assert server.services.streams_open == 20
        assert server.services.hub.watched_runs == 1
    await until(lambda: server.services.streams_open == 0, "all streams are closed")
    await until(lambda: server.services.hub.watched_runs == 0, "the channel is gone")
    async with httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as http:
        assert "tailrace_streams_active 0.0" in (await http.get(f"{server.url}/metrics")).text


async def test_clients_that_vanish_while_attaching_leave_nothing(server: Reading) -> None:
    """Reset before, during and right after the tail query."""
    await server.run()
    await server.publish()
    for _ in range(30):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET {RUNS}/r/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        await writer.drain()
        writer.transport.abort()
    async with server.stream() as answer:
        await answer.upto(1)
        await until(lambda: server.services.streams_open == 1, "only the one that stayed is open")
    await until(lambda: server.services.streams_open == 0, "none is open")
    await until(lambda: server.services.hub.watched_runs == 0, "the channel is gone")


async def test_a_run_that_is_removed_ends_its_streams(settings: Callable[..., Settings]) -> None:
    """Retention took the run: the stream ends, and the client's next request learns that it is gone."""
    async with reading(settings(heartbeat_seconds=0.05)) as server:
        await server.run()
        await server.publish()
        async with server.stream() as answer:
            await answer.upto(1)
            await execute(server.database, "delete from tailrace.runs")
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await answer.seqs() == []
        async with server.stream(last_event_id="1") as answer:
            assert answer.status == 404
