"""How runs end: with an output, with an error, in time, and always with exactly one terminal event."""

from __future__ import annotations

import asyncio
import contextvars
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import tailrace
from tailrace.model.run import RunState
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.telemetry import JobEnded, JobStarted
from tests.write_support import AGENT, running, types, verified_log

MakeSettings = Callable[..., Settings]


@pytest.mark.parametrize("output", [None, {"a": [1, 2.5, "x", None]}, [], "text", 0, False, "é\u2028"], ids=json.dumps)
async def test_what_an_agent_returns_is_the_runs_output(
    database: Database, settings: MakeSettings, output: object
) -> None:
    """Any JSON value, kept in the commit that ends the run; None is no output."""

    async def agent(run: tailrace.Run) -> object:
        assert run.input == {"n": 1}
        return output

    async with running(settings(), agent) as app:
        run = await app.ended(await app.start(input_value={"n": 1}))
        assert run.state == RunState.FINISHED
        assert (json.loads(run.output) if run.output is not None else None) == output
        assert run.started_at is not None
        assert run.finished_at is not None
        assert run.created_at <= run.started_at <= run.finished_at
        assert types(await verified_log(database, run.id)) == ["RunStarted", "RunFinished"]
        assert (await app.told.until(JobEnded, run_id=run.id)).state == "finished"


class OutOfLuck(Exception):
    """An error of the agent's own."""


def fails(error: BaseException) -> Callable[[tailrace.Run], Any]:
    async def agent(run: tailrace.Run) -> None:
        async with run.node("Work"):
            raise error

    return agent


async def leaves(_run: tailrace.Run) -> None:
    sys.exit(3)


async def leaves_from_a_thread(run: tailrace.Run) -> None:
    await run.step("Leave", sys.exit, 4)


async def leaves_in_a_task(_run: tailrace.Run) -> None:
    await asyncio.create_task(leaves_later(5))


async def leaves_in_a_task_of_a_task(_run: tailrace.Run) -> None:
    async def inner() -> None:
        await asyncio.gather(leaves_later(6), asyncio.sleep(0))

    await asyncio.ensure_future(inner())


async def leaves_in_a_group(_run: tailrace.Run) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(leaves_later(7))
        group.create_task(asyncio.sleep(600))


async def interrupts_in_a_task(_run: tailrace.Run) -> None:
    async def interrupts() -> None:
        raise KeyboardInterrupt

    await asyncio.create_task(interrupts(), context=contextvars.copy_context())


async def leaves_later(code: int) -> None:
    await asyncio.sleep(0)
    sys.exit(code)


async def cancels_itself(_run: tailrace.Run) -> None:
    raise asyncio.CancelledError


async def awaits_what_is_cancelled(_run: tailrace.Run) -> None:
    inner = asyncio.ensure_future(asyncio.Event().wait())
    asyncio.get_running_loop().call_soon(inner.cancel)
    await inner


async def returns_an_object(_run: tailrace.Run) -> object:
    return object()


async def returns_not_a_number(_run: tailrace.Run) -> float:
    return float("nan")


async def fails_in_a_group(_run: tailrace.Run) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(cancels_another())


async def cancels_another() -> None:
    raise OutOfLuck("inside")


async def its_own_timeout(run: tailrace.Run) -> None:
    async with run.node("Work", timeout=30):
        raise TimeoutError("of its own")


async def a_bad_name(run: tailrace.Run) -> None:
    async with run.node(""):
        pass


@pytest.mark.parametrize(
    ("agent", "error_class", "message"),
    [
        (fails(OutOfLuck("no luck")), "OutOfLuck", "no luck"),
        (fails(OutOfLuck()), "OutOfLuck", ""),
        (fails(ValueError("a\x00b\ud800")), "ValueError", "a\ufffdb?"),
        (fails(GeneratorExit("odd")), "GeneratorExit", "odd"),
        (leaves, "AgentExited", "sys.exit(3)"),
        (leaves_from_a_thread, "AgentExited", "sys.exit(4)"),
        (leaves_in_a_task, "AgentExited", "sys.exit(5)"),
        (leaves_in_a_task_of_a_task, "AgentExited", "sys.exit(6)"),
        (leaves_in_a_group, "ExceptionGroup", "1 sub-exception"),
        (interrupts_in_a_task, "AgentExited", "KeyboardInterrupt"),
        (fails(KeyboardInterrupt()), "AgentExited", "KeyboardInterrupt"),
        (cancels_itself, "AgentCancelledItself", "cancelled from within"),
        (awaits_what_is_cancelled, "AgentCancelledItself", "cancelled from within"),
        (returns_an_object, "InvalidEvent", "what the agent returned is not JSON"),
        (returns_not_a_number, "InvalidEvent", "not a finite number"),
        (fails_in_a_group, "ExceptionGroup", "1 sub-exception"),
        (its_own_timeout, "TimeoutError", "of its own"),
        (a_bad_name, "InvalidEvent", "1 to 256 characters"),
    ],
)
async def test_whatever_an_agent_raises_ends_its_run_as_failed(
    database: Database, settings: MakeSettings, agent: Any, error_class: str, message: str
) -> None:
    """Class and message and no traceback on the wire; the worker goes on."""
    async with running(settings(), {AGENT: agent, "healthy": healthy}) as app:
        run = await app.ended(await app.start())
        assert (run.state, run.error_class, run.output) == (RunState.FAILED, error_class, None)
        assert run.error_message is not None
        assert message in run.error_message
        log = await verified_log(database, run.id)
        assert (log[-1].type, log[-1].fn) == ("RunFailed", error_class)
        assert log[-1].data is not None
        assert set(json.loads(log[-1].data)) == {"message"}
        assert "Traceback" not in log[-1].data
        assert "NodeFinished" not in types(log)
        after = await app.ended(await app.start("healthy"))
        assert after.state == RunState.FINISHED


async def healthy(_run: tailrace.Run) -> None:
    return None


async def test_a_node_that_takes_too_long_fails_its_run(database: Database, settings: MakeSettings) -> None:
    """NodeTimeout is raised where the block waits, and the node is left without its NodeFinished."""
    caught: list[BaseException] = []

    async def agent(run: tailrace.Run) -> None:
        async with run.node("Outer"):
            try:
                async with run.node("Slow", timeout=0.01):
                    await asyncio.Event().wait()
            except tailrace.NodeTimeout as error:
                caught.append(error)
                raise

    async with running(settings(), agent) as app:
        run = await app.ended(await app.start())
    assert (run.state, run.error_class) == (RunState.FAILED, "NodeTimeout")
    assert run.error_message == "the node 'Slow' took longer than 0.01 s"
    assert isinstance(caught[0], TimeoutError)
    log = await verified_log(database, run.id)
    assert types(log) == ["RunStarted", "NodeStarted", "NodeStarted", "RunFailed"]


async def test_an_agent_may_go_on_after_a_timeout(database: Database, settings: MakeSettings) -> None:
    """A timeout is an error like any other: caught, it is over."""

    async def agent(run: tailrace.Run) -> str:
        try:
            async with run.node("Slow", timeout=0.01):
                await asyncio.Event().wait()
        except tailrace.NodeTimeout:
            await run.trace("gave-up")
        return "done"

    async with running(settings(), agent) as app:
        run = await app.ended(await app.start())
    assert run.state == RunState.FINISHED
    assert types(await verified_log(database, run.id)) == ["RunStarted", "NodeStarted", "DebugTrace", "RunFinished"]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_a_step_that_takes_too_long_fails_its_run(database: Database, settings: MakeSettings, kind: str) -> None:
    """Also a plain function, whose thread cannot be stopped: the run does not wait for it, and its late result is
    dropped."""
    release = threading.Event()

    async def waits() -> None:
        await asyncio.Event().wait()

    async def agent(run: tailrace.Run) -> None:
        await run.step("Slow", release.wait if kind == "plain" else waits, timeout=0.01)

    async with running(settings(), agent) as app:
        run = await app.ended(await app.start())
        release.set()
    assert (run.state, run.error_class) == (RunState.FAILED, "NodeTimeout")
    assert types(await verified_log(database, run.id)) == ["RunStarted", "NodeStarted", "RunFailed"]


async def test_a_plain_function_holds_up_nobody(database: Database, settings: MakeSettings) -> None:
    """One run sits in a thread until another run, which needs the event loop, has set it free."""
    free = threading.Event()

    async def sits(run: tailrace.Run) -> object:
        return await run.step("Sit", free.wait)

    async def frees(run: tailrace.Run) -> None:
        async with run.node("Free"):
            await run.step("Set", free.set)

    async with running(settings(), {"sits": sits, "frees": frees}) as app:
        sitting = await app.start("sits")
        await app.told.until(JobStarted, run_id=sitting)
        assert (await app.ended(await app.start("frees"))).state == RunState.FINISHED
        run = await app.ended(sitting)
    assert (run.state, run.output) == (RunState.FINISHED, "true")


async def test_a_task_that_an_agent_leaves_behind_cannot_spoil_the_end(
    database: Database, settings: MakeSettings
) -> None:
    """It emits as fast as it can while the run ends; it is told RunTerminated, and the run has its output."""
    told: list[BaseException] = []
    tasks: list[asyncio.Task[None]] = []

    async def emit_for_ever(run: tailrace.Run) -> None:
        try:
            while True:
                await asyncio.gather(*(run.trace("leftover") for _ in range(5)))
        except tailrace.TailraceError as error:
            told.append(error)

    async def agent(run: tailrace.Run) -> str:
        tasks.append(asyncio.create_task(emit_for_ever(run)))
        await run.trace("own")
        return "done"

    async with running(settings(), agent) as app:
        for _ in range(10):
            run = await app.ended(await app.start())
            assert (run.state, run.output) == (RunState.FINISHED, '"done"')
            await verified_log(database, run.id)
        await asyncio.gather(*tasks)
    assert [type(error) for error in told] == [tailrace.RunTerminated] * 10


async def test_many_runs_at_once_all_end_with_a_log_of_their_own(database: Database, settings: MakeSettings) -> None:
    """Sixty runs on a worker of ten: nothing is mixed up."""

    async def agent(run: tailrace.Run) -> object:
        for number in range(4):
            await run.emit("Step", {"run": run.id, "n": number})
        return run.id

    async with running(settings(worker_concurrency=10), agent) as app:
        ids = await asyncio.gather(*(app.start() for _ in range(60)))
        for run_id in ids:
            run = await app.ended(run_id)
            assert run.output == json.dumps(run_id)
            log = await verified_log(database, run_id)
            data = [json.loads(event.data) for event in log if event.data is not None]
            assert data == [{"run": run_id, "n": number} for number in range(4)]
        assert sorted(job.run_id for job in app.told.of(JobStarted)) == sorted(ids)


async def test_an_agent_that_finishes_while_its_worker_stops_has_finished(
    database: Database, settings: MakeSettings
) -> None:
    """Its end is written by the stopping worker, not thrown away for another to repeat."""
    begun = asyncio.Event()

    async def agent(_run: tailrace.Run) -> str:
        begun.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            return "just in time"
        return "never"

    async with running(settings(), agent) as app:
        run_id = await app.start()
        await begun.wait()
    log = await verified_log(database, run_id)
    assert types(log) == ["RunStarted", "RunFinished"]


async def test_a_task_that_nobody_awaits_ends_neither_the_process_nor_the_run(
    database: Database, settings: MakeSettings
) -> None:
    """It is the agent's own loss; and a task that is cancelled before it began leaves no warning."""
    gone = asyncio.Event()

    async def agent(run: tailrace.Run) -> str:
        task = asyncio.create_task(leaves_later(8))
        task.add_done_callback(lambda _: gone.set())
        asyncio.create_task(leaves_later(9)).cancel()
        await gone.wait()
        assert task.exception() is not None
        return "done"

    async with running(settings(), agent) as app:
        run = await app.ended(await app.start())
        assert (run.state, run.output) == (RunState.FINISHED, '"done"')


async def test_only_the_tasks_of_agents_are_contained_and_the_loop_is_given_back(settings: MakeSettings) -> None:
    """In somebody's application, its own tasks are made by the factory that it has chosen."""
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coroutine.__name__)
        return asyncio.Task(coroutine, loop=loop, **options)

    async def own() -> None: ...

    async def agent(run: tailrace.Run) -> None:
        await asyncio.create_task(own())

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        async with running(settings(), agent) as app:
            made.clear()
            await asyncio.create_task(own())
            assert made == ["own"]
            await app.ended(await app.start())
            assert made.count("own") == 1
        assert loop.get_task_factory() is factory
    finally:
        loop.set_task_factory(None)
