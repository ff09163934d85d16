"""The handle that an agent is given: ``tailrace.Run``."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from types import TracebackType
from typing import Any

import orjson

from tailrace.errors import EventTooLarge, Fault, InvalidEvent, InvalidInput, NodeTimeout
from tailrace.model import draft, strictjson
from tailrace.model.run import Lease
from tailrace.telemetry import FirstNode, Telemetry
from tailrace.trace import TraceContext, parse_traceparent, spanning
from tailrace.worker.threads import Threads
from tailrace.write.appender import Appender
from tailrace.write.line import RunLog
from tailrace.write.orchestrate import now_ms

# A kept result or an output is one row and one answer over HTTP; larger things belong into a store of their own.
RESULT_MAX_BYTES = 16 * 2**20


class Run:
    """One execution of an agent.

    Every ``await`` on it returns once the event is durable in Postgres, and raises

    - ``LeaseLost`` when another worker owns the run now,
    - ``RunTerminated`` when the run has ended,
    - ``InvalidEvent`` or ``EventTooLarge`` when what was given may not be written.

    Events that tasks of one run emit at the same time get their places in the order of the calls.
    """

    def __init__(
        self,
        lease: Lease,
        *,
        appender: Appender,
        telemetry: Telemetry,
        threads: Threads,
        kept_steps: Mapping[str, str],
        max_event_bytes: int,
    ) -> None:
        self.id: str = lease.run_id
        self.agent: str = lease.agent
        self.input: Any = orjson.loads(lease.input) if lease.input is not None else None
        self.cancelled: bool = False
        self._lease = lease
        self._log = RunLog(lease.run_id, epoch=lease.epoch, last_seq=lease.last_seq)
        self._appender = appender
        self._telemetry = telemetry
        self._threads = threads
        self._kept_steps = kept_steps
        self._turns: Counter[str] = Counter()
        self._max_event_bytes = max_event_bytes
        self._first_node_told = lease.resumed
        started = parse_traceparent(lease.traceparent)
        self._trace = started.child() if started is not None else None

    def __repr__(self) -> str:
        return f"Run(id={self.id!r}, agent={self.agent!r})"

    @property
    def log(self) -> RunLog:
        """The writing end of this run's log."""
        return self._log

    @property
    def execution_trace(self) -> TraceContext | None:
        """Where in the run's trace this execution is, None when the run is not traced."""
        return self._trace

    async def emit(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        """Append a Custom event.

        :param data: a JSON object of at most ``TAILRACE_MAX_EVENT_BYTES`` (65,536) bytes as UTF-8.
        """
        payload = data if type(data) is dict or not isinstance(data, Mapping) else dict(data)
        await self._appender.append(self._log, [draft.custom(name, payload, now_ms(), max_bytes=self._max_event_bytes)])

    async def trace(self, fn: str) -> None:
        """Append a DebugTrace that names a function."""
        await self._appender.append(self._log, [draft.debug_trace(fn, now_ms())])

    def node(self, name: str, *, timeout: float | None = None) -> AbstractAsyncContextManager[None]:
        """Append NodeStarted, run the block, append NodeFinished.

        A block that raises leaves the node without its NodeFinished: the node did not finish.

        :param timeout: most seconds the block may take; past it ``NodeTimeout`` is raised.
        """
        return _Node(self, name, timeout)

    async def step(self, name: str, fn: Callable[..., Any], *args: Any, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - the contract's name
        """Run ``fn(*args)`` as a node whose result is kept, and return the result.

        A run that is resumed by another worker gets the kept result at once: ``fn`` is not called and nothing is
        emitted.  The result goes through JSON in either case, so the first time and the resumed time return the same.
        Calls with the same name are told apart by their order, so keep that order the same from one call of the agent
        to the next.

        :param fn: a coroutine function, or a plain one, which runs in a thread.  Python cannot stop a thread: after a
            timeout or a cancellation a plain function goes on unheeded until it returns.
        :param timeout: most seconds it may take; past it ``NodeTimeout`` is raised.
        :raises InvalidEvent: the result is not JSON.
        :raises EventTooLarge: the result takes more than 16 MiB as JSON.
        """
        draft.check_name(name, "name")
        self._turns[name] += 1
        key = f"{name}#{self._turns[name]}"
        if (kept := self._kept_steps.get(key)) is not None:
            return orjson.loads(kept)
        with self._traced(name):
            await self._start_node(name)
            async with _bounded(name, timeout):
                result = await self._call(fn, *args)
            text = result_json(result, f"the result of step {name!r}")
            await self._appender.append(self._log, [draft.node_finished(name, now_ms())], step=(key, text))
        return orjson.loads(text)

    def _traced(self, name: str) -> AbstractContextManager[object]:
        if self._trace is None:
            return nullcontext()
        place = self._trace.child()
        return spanning(self._telemetry.tell, f"node {name}", place, self._trace, self.id, self.agent)

    async def _start_node(self, name: str) -> None:
        await self._appender.append(self._log, [draft.node_started(name, now_ms())])
        if not self._first_node_told:
            self._first_node_told = True
            self._telemetry.tell(FirstNode(self.id, max(0.0, time.time() - self._lease.created_at_seconds)))

    async def _finish_node(self, name: str) -> None:
        await self._appender.append(self._log, [draft.node_finished(name, now_ms())])

    async def _call(self, fn: Callable[..., Any], *args: Any) -> Any:
        if inspect.iscoroutinefunction(fn):
            return await fn(*args)
        result = await self._threads.call(fn, *args)
        # A partial, a lambda or an object with __call__ may hand back a coroutine after all.
        return await result if inspect.isawaitable(result) else result


class _Node:
    """What ``Run.node`` gives; a class, for a generator takes thrice as long, and there are two of them an event."""

    __slots__ = ("_bound", "_name", "_run", "_span", "_timeout")

    def __init__(self, run: Run, name: str, timeout: float | None) -> None:
        self._run = run
        self._name = name
        self._timeout = timeout
        self._span = run._traced(name)
        self._bound: AbstractAsyncContextManager[None] | None = None

    async def __aenter__(self) -> None:
        self._span.__enter__()
        try:
            await self._run._start_node(self._name)
            if self._timeout is not None:
                self._bound = _bounded(self._name, self._timeout)
                await self._bound.__aenter__()
        except BaseException as error:
            self._span.__exit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._bound is not None:
                await self._bound.__aexit__(kind, error, trace)
            if error is None:
                await self._run._finish_node(self._name)
        except BaseException as raised:
            self._span.__exit__(type(raised), raised, raised.__traceback__)
            raise
        self._span.__exit__(kind, error, trace)


@asynccontextmanager
async def _bounded(name: str, seconds: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds) as bound:
            yield
    except TimeoutError as error:
        if not bound.expired():
            raise
        raise NodeTimeout(f"the node {name!r} took longer than {seconds} s") from error


def result_json(value: object, what: str) -> str:
    """Return ``value`` as JSON text; raise ``InvalidEvent`` or ``EventTooLarge`` naming ``what`` it is."""
    try:
        text = strictjson.dump(value)
    except InvalidInput as error:
        fault = error.faults[0]
        raise InvalidEvent(f"{what} is not JSON: {fault.pointer or 'it'} {fault.detail}", error.faults) from None
    if len(text) * 4 > RESULT_MAX_BYTES and (size := len(text.encode())) > RESULT_MAX_BYTES:
        detail = f"takes {size} bytes as JSON; {RESULT_MAX_BYTES} are allowed"
        raise EventTooLarge(f"{what} {detail}. Store it elsewhere and return a reference", [Fault("", detail)])
    return text
