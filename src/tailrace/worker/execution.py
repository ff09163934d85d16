"""One run in the hands of this worker, from its lease to its end.

claimed ──▶ running ──agent returns──▶ RunFinished
               │ ─────agent raises───▶ RunFailed
               │ ─────cancelled──────▶ RunCancelled
               │ ─────lease lost─────▶ (nothing: the run is another worker's)
               └ ─────worker stops───▶ (nothing: the lease is given back)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from tailrace.errors import DatabaseUnavailable, LeaseLost, RunTerminated, TailraceError
from tailrace.model import draft
from tailrace.model.run import Lease, RunState
from tailrace.telemetry import Telemetry
from tailrace.trace import Ending, TraceContext, parse_traceparent, spanning
from tailrace.worker.containment import call_contained
from tailrace.worker.run import Run, result_json
from tailrace.write.appender import Appender
from tailrace.write.orchestrate import now_ms

Agent = Callable[[Run], Awaitable[Any]]
StopReason = Literal["cancelled", "lease-lost", "released"]

# A run that killed this many workers, and kept no step between, will kill the next one too.
TAKEOVERS_MAX = 5
# How long an agent may take to clean up after it was cancelled, before its run ends without it.
CANCEL_GRACE_SECONDS = 10.0


class TooManyTakeovers(TailraceError):
    """Too many workers died while they held the run, and none got a step further."""


class AgentGone(TailraceError):
    """No live worker serves the run's agent any more."""


class AgentCancelledItself(TailraceError):
    """The agent raised CancelledError though nobody cancelled the run."""


class Execution:
    """Runs an agent under a lease and writes how it ended; without an agent, that it is gone."""

    def __init__(
        self, lease: Lease, agent: Agent | None, run: Run, *, appender: Appender, max_event_bytes: int
    ) -> None:
        self.lease = lease
        self._agent = agent
        self._run = run
        self._appender = appender
        self._max_event_bytes = max_event_bytes
        self._stop_reason: StopReason | None = None
        self._stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def trace(self) -> TraceContext | None:
        """Where in the run's trace this execution is, None when the run is not traced."""
        return self._run.execution_trace

    def traced(self, telemetry: Telemetry) -> AbstractContextManager[Ending]:
        """Tell of the block as the run's execution, if the run is traced."""
        lease = self.lease
        started = parse_traceparent(lease.traceparent)
        if self.trace is None or started is None:
            return nullcontext(Ending())
        return spanning(telemetry.tell, "run.execute", self.trace, started, lease.run_id, lease.agent)

    def stop(self, reason: StopReason) -> None:
        """Cancel the agent; the first reason counts, but a lost lease overrides any."""
        if self._stop_reason is None or reason == "lease-lost":
            self._stop_reason = reason
        if self._stop_reason == "cancelled":
            self._run.cancelled = True
        if not self._stopping.done():
            self._stopping.set_result(None)

    async def execute(self) -> str:
        """Run the agent to its end; return a terminal state, ``lease-lost`` or ``released``."""
        try:
            terminal, state, output = await self._outcome()
            if self._stop_reason == "lease-lost" or (
                self._stop_reason == "released" and state is not RunState.FINISHED
            ):
                return self._stop_reason  # A stopping worker writes an agent's own end, not what stopping made of it.
            await self._appender.append(self._run.log, [terminal], state=state, output=output)
        except LeaseLost:
            return "lease-lost"
        except (RunTerminated, DatabaseUnavailable):
            # Ended by somebody else, or the process stops: the run's row says how it goes on.
            return "released"
        return state

    async def _outcome(self) -> tuple[draft.Draft, RunState, str | None]:
        try:
            if self._agent is None:
                raise AgentGone(
                    f"no worker serves the agent {self.lease.agent!r} any more. If it was renamed or removed, start "
                    "the run again under an agent that exists; if its workers were down, start them (tailrace serve "
                    "--role worker --app …) and then the run"
                )
            if self.lease.takeovers > TAKEOVERS_MAX:
                raise TooManyTakeovers(
                    f"{self.lease.takeovers} workers died or froze, one after another, while they held this run, and "
                    "none got a step further; it is not given to another"
                )
            if self.lease.resumed:
                await self._run.trace("run.resumed")
            if self._stopping.done():
                raise asyncio.CancelledError  # asked to end before the agent was called
            value = await self._supervised(self._agent)
            if self._run.cancelled:
                return draft.run_cancelled(now_ms()), RunState.CANCELLED, None
            output = result_json(value, "what the agent returned") if value is not None else None
            return draft.run_finished(now_ms()), RunState.FINISHED, output
        except LeaseLost:
            raise
        except asyncio.CancelledError:
            if self._stop_reason is None:
                raise  # The worker itself is torn down.
            return draft.run_cancelled(now_ms()), RunState.CANCELLED, None
        except BaseException as error:
            if self._run.log.refusal is not None:
                raise self._run.log.refusal from error
            if self._run.cancelled:
                return draft.run_cancelled(now_ms()), RunState.CANCELLED, None
            return draft.run_failed(error, now_ms(), max_bytes=self._max_event_bytes), RunState.FAILED, None

    async def _supervised(self, agent: Agent) -> Any:
        """Return what the agent returns; cancel it when asked to stop, again and again if it does not listen."""
        task = asyncio.ensure_future(call_contained(self._call(agent)))
        try:
            await asyncio.wait({task, self._stopping}, return_when=asyncio.FIRST_COMPLETED)
            deadline = asyncio.get_running_loop().time() + CANCEL_GRACE_SECONDS
            while not task.done() and asyncio.get_running_loop().time() < deadline:
                task.cancel()
                await asyncio.wait({task}, timeout=1.0)
            if not task.done():
                raise asyncio.CancelledError
            if task.cancelled() and self._stop_reason is None:
                raise AgentCancelledItself("the agent ended because something it awaited was cancelled from within")
            return task.result()
        finally:
            if not task.done():
                task.cancel()

    async def _call(self, agent: Agent) -> Any:
        return await agent(self._run)
