"""Runs survive their workers: killed, frozen, cut off.  Every worker here is a process of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import tailrace
from tailrace.errors import DatabaseUnavailable
from tailrace.model.run import RunState
from tailrace.runtime import Role
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.leases import Leases
from tailrace.store.runs import Runs
from tailrace.telemetry import JobStarted
from tailrace.worker import worker as worker_module
from tailrace.worker.execution import TAKEOVERS_MAX
from tests.outage_support import Line, Served, served
from tests.write_support import Running, execute, expire, fetch, running, started, types, until, value, verified_log

MakeSettings = Callable[..., Settings]
AGENTS = Path(__file__).parent / "agents.py"
FEWER_AGENTS = Path(__file__).parent / "fewer_agents.py"
FRONT: tuple[Role, ...] = ("api", "outbox")
NODE = ["NodeStarted", "NodeFinished"]
# Who dies or is frozen has its lease ended by the test, so the others may have the long ones of ``settings()``.  One
# that wakes finds out with its next renewal, a third of its lease later.
WAKING_LEASE_SECONDS = 20.0
# Who is cut off waits it out.
CUT_OFF_LEASE_SECONDS = 6.0


def marks(folder: Path) -> list[str]:
    path = folder / "marks"
    return path.read_text().splitlines() if path.exists() else []


async def marked(folder: Path, mark: str, *, times: int = 1) -> None:
    async def there() -> bool | None:
        return True if marks(folder).count(mark) >= times else None

    await until(there)


def open_gate(folder: Path, worker: Served) -> None:
    (folder / f"gate-{worker.pid}").touch()


def over(line: Line) -> dict[str, str]:
    """What a worker is told whose way to Postgres is this line, and who gives a statement up before its lease ends."""
    return {"TAILRACE_DATABASE_URL": line.url, "TAILRACE_TX_TIMEOUT_MS": "1000"}


async def deaths(database: Database, run_id: str, workers: Sequence[Served], count: int) -> None:
    """Let the lease end of each of so many workers, one after the other, once the run has killed it."""
    for number in range(1, count + 1):

        async def has_died(number: int = number) -> bool | None:
            return True if sum(worker.process.returncode is not None for worker in workers) >= number else None

        await until(has_died)
        await expire(database, run_id)


async def epochs(database: Database, run_id: str) -> list[int]:
    rows = await fetch(database, "select epoch from tailrace.run_events where run_id = $1 order by seq", run_id)
    return [row["epoch"] for row in rows]


async def assert_executes(app: Running, worker: Served) -> None:
    """The worker, which is the only one, still does its work."""
    run = await app.ended(await app.start("echo"))
    assert run.output == str(worker.pid)


def assert_resumed_once(log: Sequence[object], found: list[int], *, at: int) -> None:
    """The first worker wrote what comes before ``at``, the second everything from there on."""
    assert found == [0] + [1] * (at - 1) + [2] * (len(log) - at)


async def test_a_killed_worker_is_replaced_and_the_run_resumes_at_the_first_step_that_was_not_kept(
    database: Database, settings: MakeSettings, tmp_path: Path
) -> None:
    """kill -9 in the second step: the first is neither called nor emitted again, the second is called anew."""
    one = settings()
    async with (
        running(one, {}, FRONT) as app,
        served(one, app=AGENTS, role="worker") as first,
        served(one, app=AGENTS, role="worker") as second,
    ):
        second.freeze()
        run_id = await app.start("stages", str(tmp_path))
        await marked(tmp_path, f"two {first.pid}")
        await first.kill()
        await expire(database, run_id)
        second.thaw()
        await marked(tmp_path, f"two {second.pid}")
        open_gate(tmp_path, second)
        run = await app.ended(run_id)
    assert json.loads(run.output or "") == [first.pid, second.pid]
    assert marks(tmp_path) == [f"one {first.pid}", f"two {first.pid}", f"two {second.pid}"]
    log = await verified_log(database, run_id)
    assert types(log) == ["RunStarted", *NODE, "NodeStarted", "DebugTrace", *NODE, "DebugTrace", "RunFinished"]
    assert log[4].fn == "run.resumed"
    assert_resumed_once(log, await epochs(database, run_id), at=4)


@pytest.mark.parametrize("gate", ["closed", "open"])
async def test_a_worker_that_was_frozen_past_its_lease_appends_nothing_and_stops_the_run(
    database: Database, settings: MakeSettings, tmp_path: Path, gate: str
) -> None:
    """SIGSTOP, take-over, SIGCONT: whether it wakes up with something to write or not; and it goes on to serve."""
    one = settings(lease_seconds=WAKING_LEASE_SECONDS)
    async with running(one, {}, FRONT) as app, served(one, app=AGENTS, role="worker") as first:
        run_id = await app.start("stages", str(tmp_path))
        await marked(tmp_path, f"two {first.pid}")
        first.freeze()
        await expire(database, run_id)
        async with served(settings(), app=AGENTS, role="worker") as second:
            await marked(tmp_path, f"two {second.pid}")
            if gate == "open":
                open_gate(tmp_path, first)
            first.thaw()
            await marked(tmp_path, f"stopped {first.pid}")
            open_gate(tmp_path, second)
            run = await app.ended(run_id)
        await assert_executes(app, first)
    assert json.loads(run.output or "") == [first.pid, second.pid]
    log = await verified_log(database, run_id)
    assert [event.fn for event in log if event.type == "DebugTrace"] == ["run.resumed", "after"]
    assert_resumed_once(log, await epochs(database, run_id), at=4)


@pytest.mark.parametrize("how", ["cut", "silence"])
async def test_a_worker_that_is_cut_off_from_postgres_stops_its_run_by_its_own_clock(
    database: Database, settings: MakeSettings, tmp_path: Path, how: str
) -> None:
    """Its connections are reset, or look whole and bring nothing: it stops before it could know, is replaced, and
    serves again once the line is mended."""
    one = settings(lease_seconds=CUT_OFF_LEASE_SECONDS)
    assert one.database_url is not None
    async with (
        Line(one.database_url.get_secret_value()).running() as line,
        running(one, {}, FRONT) as app,
        served(one, app=AGENTS, role="worker", **over(line)) as first,
    ):
        run_id = await app.start("stages", str(tmp_path))
        await marked(tmp_path, f"two {first.pid}")
        getattr(line, how)()
        await marked(tmp_path, f"stopped {first.pid}")
        async with served(settings(), app=AGENTS, role="worker") as second:
            await marked(tmp_path, f"two {second.pid}")
            open_gate(tmp_path, first)
            line.mend()
            open_gate(tmp_path, second)
            run = await app.ended(run_id)
        await assert_executes(app, first)
    assert json.loads(run.output or "") == [first.pid, second.pid]
    log = await verified_log(database, run_id)
    assert_resumed_once(log, await epochs(database, run_id), at=4)


async def test_a_run_that_kills_every_worker_ends_after_so_many(database: Database, settings: MakeSettings) -> None:
    """Each worker is killed by the agent's own hand; the last one does not call it any more.  The first deaths are
    written down by the test."""
    one = settings()
    async with running(one, {}, FRONT) as app, AsyncExitStack() as stack:
        workers = [served(one, app=AGENTS, role="worker") for _ in range(4)]
        there = await asyncio.gather(*(stack.enter_async_context(worker) for worker in workers))
        for worker in there:
            worker.freeze()
        run_id = await app.start("killer")
        await execute(database, "update tailrace.runs set takeovers = $1", TAKEOVERS_MAX - 2)
        for worker in there:
            worker.thaw()
        await deaths(database, run_id, there, 3)
        run = await app.ended(run_id)
        left = [worker for worker in there if worker.process.returncode is None]
        assert len(left) == 1
        await assert_executes(app, left[0])
    assert (run.state, run.error_class) == (RunState.FAILED, "TooManyTakeovers")
    log = await verified_log(database, run_id)
    killed = {event.fn for event in log if (event.fn or "").startswith("killing")}
    assert killed == {f"killing {worker.pid}" for worker in there if worker is not left[0]}


async def test_a_run_that_gets_a_step_further_in_each_life_is_not_given_up(
    database: Database, settings: MakeSettings
) -> None:
    """As many deaths in a row as are allowed, and three more, each after a step that was kept: it ends well."""
    one = settings()
    async with running(one, {}, FRONT) as app, AsyncExitStack() as stack:
        workers = [served(one, app=AGENTS, role="worker") for _ in range(4)]
        there = await asyncio.gather(*(stack.enter_async_context(worker) for worker in workers))
        run_id = await app.start("climber")
        await execute(database, "update tailrace.runs set takeovers = $1", TAKEOVERS_MAX)
        await deaths(database, run_id, there, 3)
        run = await app.ended(run_id)
    assert run.state == RunState.FINISHED
    assert sorted(json.loads(run.output or "")) == sorted(worker.pid for worker in there)
    assert await value(database, "select takeovers from tailrace.runs") == 1


async def test_outages_longer_than_the_lease_are_no_deaths(
    database: Database, settings: MakeSettings, tmp_path: Path
) -> None:
    """A run that one more death would end lives through three of them; its worker is alive and says so."""
    one = settings(lease_seconds=CUT_OFF_LEASE_SECONDS)
    assert one.database_url is not None
    async with (
        Line(one.database_url.get_secret_value()).running() as line,
        running(one, {}, FRONT) as app,
        served(one, app=AGENTS, role="worker", **over(line)) as worker,
    ):
        run_id = await app.start("stages", str(tmp_path))
        await marked(tmp_path, f"two {worker.pid}")
        for outage in (1, 2, 3):
            # The step that the first life has kept starts the count anew; from the second outage on it stands.
            await execute(database, "update tailrace.runs set takeovers = $1", TAKEOVERS_MAX)
            line.cut()
            await marked(tmp_path, f"stopped {worker.pid}", times=outage)
            line.mend()
            await marked(tmp_path, f"two {worker.pid}", times=outage + 1)
        open_gate(tmp_path, worker)
        run = await app.ended(run_id)
    assert run.state == RunState.FINISHED
    assert await value(database, "select epoch from tailrace.runs") == 4
    await verified_log(database, run_id)


async def test_an_agent_that_blocks_its_worker_past_the_lease_is_given_up(
    database: Database, settings: MakeSettings
) -> None:
    """Its worker lives and claims the run again, which nobody else has taken; but it was not cut off."""
    one = settings(lease_seconds=1)
    async with running(one, {}, FRONT) as app, served(one, app=AGENTS, role="worker") as worker:
        run_id = await app.start("blocker")
        await execute(database, "update tailrace.runs set takeovers = $1", TAKEOVERS_MAX - 1)
        run = await app.ended(run_id)
        await assert_executes(app, worker)
    assert (run.state, run.error_class) == (RunState.FAILED, "TooManyTakeovers")


async def test_a_run_of_an_agent_that_the_next_version_does_not_have_ends_in_run_failed(
    database: Database, settings: MakeSettings, tmp_path: Path
) -> None:
    """Its worker is killed, and the one that follows has other agents."""
    one = settings(lease_seconds=1)
    async with running(one, {}, FRONT) as app:
        async with served(settings(), app=AGENTS, role="worker") as first:
            run_id = await app.start("stages", str(tmp_path))
            await marked(tmp_path, f"two {first.pid}")
        await expire(database, run_id)
        async with served(one, app=FEWER_AGENTS, role="worker"):
            run = await app.ended(run_id)
    assert (run.state, run.error_class) == (RunState.FAILED, "AgentGone")
    assert "'stages'" in (run.error_message or "")
    assert types(await verified_log(database, run_id)) == ["RunStarted", *NODE, "NodeStarted", "RunFailed"]


async def test_a_rescue_for_which_postgres_has_no_answer_is_not_a_death(
    database: Database, settings: MakeSettings, runs: Runs, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kept steps are asked for again, under the same lease; the run does not wait for it to end."""
    monkeypatch.setattr(worker_module, "KEPT_RETRY_SECONDS", 0.001)
    lease = await started(runs, leases, worker="dead")
    await expire(database, lease.run_id)
    kept_steps, failures = Leases.kept_steps, [1, 2]

    async def kept_at_last(self: Leases, run_id: str) -> dict[str, str]:
        if failures:
            failures.pop()
            raise DatabaseUnavailable("away")
        return await kept_steps(self, run_id)

    monkeypatch.setattr(Leases, "kept_steps", kept_at_last)

    async def agent(run: tailrace.Run) -> str:
        return "done"

    async with running(settings(), agent) as app:
        assert (await app.ended(lease.run_id)).output == '"done"'
        assert [job.epoch for job in app.told.of(JobStarted)] == [lease.epoch + 1]
    rows = await fetch(database, "select takeovers from tailrace.runs")
    assert [row["takeovers"] for row in rows] == [1]


async def test_a_steps_result_and_its_node_finished_are_one_transaction(
    database: Database, settings: MakeSettings
) -> None:
    """The same transaction wrote both rows, so that no death can part them.  No outbox runs, which marks the event."""

    async def agent(run: tailrace.Run) -> None:
        await run.step("One", lambda: 1)
        await kept.wait()

    kept = asyncio.Event()
    # Without the outbox, whose mark would make a new version of the event, with a transaction of its own.
    async with running(settings(), agent, ("api", "worker")) as app:
        run_id = await app.start()

        async def both() -> list[str] | None:
            rows = await fetch(
                database,
                "select steps.xmin::text as step, events.xmin::text as event from tailrace.run_steps as steps"
                " join tailrace.run_events as events on events.run_id = steps.run_id and events.seq = steps.seq"
                " where steps.run_id = $1 and events.type = 'NodeFinished'",
                run_id,
            )
            return [rows[0]["step"], rows[0]["event"]] if rows else None

        step, event = await until(both)
        kept.set()
    assert step == event
