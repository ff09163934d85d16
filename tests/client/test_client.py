"""``tailrace.Client`` against servers that restart, refuse and lie."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence

import httpx2
import pytest

import tailrace
from tailrace.errors import ApiError, InvalidPosition, ServerUnavailable
from tailrace.settings import Settings
from tests.patience import PATIENCE_SECONDS
from tests.read_support import Reading, ServerProcess, reading, until
from tests.servers import free_port


@pytest.fixture
async def server(settings: Callable[..., Settings]) -> AsyncIterator[Reading]:
    async with reading(settings()) as made:
        yield made


class Watching:
    """A client that follows a run in a task of its own."""

    def __init__(self, client: tailrace.Client, run_id: str, from_seq: int = 0) -> None:
        self.seqs: list[int] = []
        self.task = asyncio.create_task(self._watch(client, run_id, from_seq))

    async def upto(self, seq: int) -> None:
        await until(lambda: self.task.done() or bool(self.seqs and self.seqs[-1] >= seq), f"the client has seq {seq}")
        assert self.seqs[-1] >= seq, "the client's stream ended early"

    async def end(self) -> list[int]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.task
        return self.seqs

    async def _watch(self, client: tailrace.Client, run_id: str, from_seq: int) -> None:
        async for event in client.stream(run_id, from_seq=from_seq):
            self.seqs.append(event.seq)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_stream_goes_through_a_restart_of_the_server(settings: Callable[..., Settings], how: str) -> None:
    """The server ends or dies, events are published meanwhile, it comes back: each event once, in order, to the end."""
    with ServerProcess(settings()) as process:
        async with reading(settings()) as writer, tailrace.Client(process.url) as client:
            run = await writer.run()
            await run.append_many(30)
            await writer.publish()
            watching = Watching(client, "r")
            await watching.upto(31)
            await asyncio.to_thread(getattr(process, how))
            await run.append_many(30)
            await writer.publish()
            await asyncio.to_thread(process.start)
            await watching.upto(61)
            await run.finish()
            await writer.publish()
            assert await watching.end() == list(range(1, 63))


async def test_a_stream_that_begins_before_its_server_waits_for_it(settings: Callable[..., Settings]) -> None:
    """A watcher started first is not an error: it is let in when the server is there."""
    process = ServerProcess(settings())
    async with reading(settings()) as writer, tailrace.Client(process.url) as client:
        run = await writer.run()
        await run.finish()
        await writer.publish()
        watching = Watching(client, "r")
        with process:
            assert await watching.end() == [1, 2]


async def test_a_stream_that_rotates_all_the_time_is_still_each_event_once(settings: Callable[..., Settings]) -> None:
    """The server ends the stream every few milliseconds."""
    impatient = settings(stream_max_seconds=0.01, heartbeat_seconds=0.01)
    async with reading(impatient) as server, tailrace.Client(server.url) as client:
        run = await server.run()
        watching = Watching(client, "r")
        for _ in range(10):
            await run.append_many(5)
            await server.publish()
            await watching.upto(run.last_seq)
        await run.finish()
        await server.publish()
        assert await watching.end() == list(range(1, 53))


async def test_a_stream_from_a_position_has_what_follows_it(server: Reading) -> None:
    """And from the terminal event on it ends at once, with nothing."""
    run = await server.run()
    await run.append_many(5)
    last = await run.finish()
    await server.publish()
    async with tailrace.Client(server.url) as client:
        assert await Watching(client, "r", from_seq=4).end() == [5, 6, 7]
        assert await Watching(client, "r", from_seq=last).end() == []


@pytest.mark.parametrize(
    ("answers", "positions"),
    [
        pytest.param([(1, 2, 2, 1, 3)], ["0"], id="repeated"),
        pytest.param([(1, 3), (2, 3)], ["0", "1"], id="skipped"),
        pytest.param([(2,), (1, 2, 3)], ["0", "0"], id="began-too-late"),
        pytest.param([(1,), (), (2,), (3,)], ["0", "1", "1", "2"], id="cut-again-and-again"),
    ],
)
async def test_a_server_that_repeats_or_skips_is_not_believed(
    answers: Sequence[Sequence[int]], positions: list[str]
) -> None:
    """A proxy or a bug may do both: the client drops what it has had and asks again for what is missing."""
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.headers["last-event-id"])
        return _stream(answers[len(asked) - 1], last=3)

    async with tailrace.Client("http://x", transport=httpx2.MockTransport(answer)) as client:
        assert await Watching(client, "r").end() == [1, 2, 3]
    assert asked == positions


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(lambda: httpx2.Response(503), id="503"),
        pytest.param(lambda: httpx2.Response(500, text="<html>"), id="500"),
        pytest.param(lambda: httpx2.Response(200, content=b"retry: 1000\n\n"), id="come-again"),
        pytest.param(lambda: httpx2.Response(200, content=b"data: {\n\n"), id="no-event"),
        pytest.param(lambda: httpx2.Response(200, content=b'data: {"a":1}\n\n'), id="another-object"),
        pytest.param(lambda: _raise(httpx2.ReadError("reset")), id="reset"),
        pytest.param(lambda: _raise(httpx2.ConnectTimeout("slow")), id="timeout"),
    ],
)
async def test_trouble_that_passes_is_waited_out(trouble: Callable[[], httpx2.Response]) -> None:
    """Whatever comes that is neither the stream nor a refusal, the client asks again, from where it is."""
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.headers["last-event-id"])
        return {1: lambda: _stream([1, 2], last=3), 2: trouble}.get(len(asked), lambda: _stream([3], last=3))()

    async with tailrace.Client("http://x", transport=httpx2.MockTransport(answer)) as client:
        assert await Watching(client, "r").end() == [1, 2, 3]
    assert asked == ["0", "2", "2"]


async def test_a_connection_that_falls_silent_is_given_up(server: Reading) -> None:
    """A half-open connection says nothing for ever: past `silence_seconds` the client connects anew."""
    run = await server.run()
    await server.publish()
    async with tailrace.Client(server.url, silence_seconds=0.5) as client:
        watching = Watching(client, "r")
        await watching.upto(1)
        await until(lambda: server.services.hub.watched_runs == 1, "it is there, or has come back already")
        (watched,) = server.services.hub._watched.values()
        await until(
            lambda: watched not in server.services.hub._watched.values(), "the client has left the first stream"
        )
        await until(lambda: server.services.hub.watched_runs == 1, "it has come back")
        await run.finish()
        await server.publish()
        assert await watching.end() == [1, 2]


async def test_a_refused_stream_is_an_error_and_not_a_loop(server: Reading) -> None:
    """404 and 409 will not change by asking again."""
    await server.run()
    await server.publish()
    async with tailrace.Client(server.url) as client:
        with pytest.raises(ApiError) as unknown:
            await Watching(client, "nobody").end()
        assert unknown.value.status == 404
        with pytest.raises(ApiError) as ahead:
            await Watching(client, "r", from_seq=7).end()
        assert ahead.value.status == 409
        with pytest.raises(InvalidPosition):
            await Watching(client, "r", from_seq=-1).end()


async def test_refusals_of_calls_carry_the_problem(settings: Callable[..., Settings]) -> None:
    """Status and document of the answer are there for the caller to act on."""
    async with reading(settings()) as server, tailrace.Client(server.url) as client:
        for call, status in (
            (client.get("nobody"), 404),
            (client.cancel("nobody"), 404),
            (client.events("nobody"), 404),
            (client.start("nobody"), 404),
            (client.start("nobody", run_id="not acceptable"), 422),
            (client.list(limit=0), 422),
            (client.list(state="asleep"), 422),
        ):
            with pytest.raises(ApiError) as refused:
                await call
            assert refused.value.status == status
            assert refused.value.problem["status"] == status
            assert str(refused.value.problem["detail"]) in str(refused.value)


@pytest.mark.parametrize(
    "run_id", ["r?x=1", "r#x", "../runs/r", "..", ".", "r/events", "", "a b", "é", "%2e%2e", "r\n"]
)
async def test_a_run_id_is_never_taken_for_a_piece_of_url(server: Reading, run_id: str) -> None:
    """An id that came from outside asks for that run and for nothing else."""
    await server.run()
    async with tailrace.Client(server.url) as client:
        for call in (client.get, client.events, client.cancel):
            with pytest.raises(ApiError) as refused:
                await call(run_id)
            assert refused.value.status == 404
        with pytest.raises(ApiError):
            await Watching(client, run_id).end()


async def test_calls_to_a_server_that_is_not_there_say_so() -> None:
    """The text names the address and what to do."""
    url = f"http://127.0.0.1:{free_port()}"
    async with tailrace.Client(url) as client:
        for call in (client.get("r"), client.start("x"), client.cancel("r"), client.list(), client.events("r")):
            with pytest.raises(ServerUnavailable, match=url):
                await call


@pytest.mark.parametrize("body", [b"<html>It works!</html>", b"[1]", b"{}", b""])
async def test_an_answer_that_is_not_tailraces_is_an_api_error(body: bytes) -> None:
    """Another program on that port, or a captive portal: no decoder's own error reaches the caller."""
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=body))
    async with tailrace.Client("http://x", transport=transport) as client:
        for call in (client.get("r"), client.start("x"), client.cancel("r"), client.list(), client.events("r")):
            with pytest.raises(ApiError):
                await call


async def test_a_server_that_answers_nothing_is_unavailable() -> None:
    """It accepts and closes: no answer is not an answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        async def accept() -> None:
            connection, _ = await asyncio.get_running_loop().sock_accept(listening)
            connection.close()

        async with tailrace.Client(url) as client, asyncio.TaskGroup() as tasks:
            tasks.create_task(accept())
            with pytest.raises(ServerUnavailable):
                await client.get("r")


async def test_the_client_starts_watches_lists_and_cancels(settings: Callable[..., Settings]) -> None:
    """The whole of its face, once, against a server with all roles."""
    with ServerProcess(settings(), role="all") as process:
        async with tailrace.Client(f"{process.url}/") as client:
            first = await client.start("echo", {"a": [1, None]}, run_id="one", idempotency_key="k")
            again = await client.start("echo", {"a": [1, None]}, run_id="one", idempotency_key="k")
            assert (first.run_id, again.run_id) == ("one", "one")
            assert await Watching(client, "one").end() == [1, 2]
            assert (await client.get("one")).output == {"a": [1, None]}
            waiting = await client.start("wait")
            assert waiting.input is None
            watching = Watching(client, waiting.run_id)
            await watching.upto(2)
            assert [run.run_id for run in (await client.list(limit=1)).runs] == [waiting.run_id]
            assert [run.run_id for run in (await client.list(agent="echo")).runs] == ["one"]
            await client.cancel(waiting.run_id)
            await watching.end()
            assert (await client.get(waiting.run_id)).state == "cancelled"
            page = await client.events(waiting.run_id, from_seq=1, limit=1)
            assert ([event.seq for event in page.events], page.next_from_seq) == ([2], 2)


def _stream(seqs: Sequence[int], *, last: int) -> httpx2.Response:
    blocks = [
        b'id: %d\ndata: {"runId":"r","seq":%d,"ts":1,"type":"%b","v":1,"source":"outbox"}\n\n'
        % (seq, seq, b"RunFinished" if seq == last else b"RunStarted")
        for seq in seqs
    ]
    return httpx2.Response(200, content=b"retry: 1000\n\n" + b"".join(blocks))


def _raise(error: Exception) -> httpx2.Response:
    raise error
