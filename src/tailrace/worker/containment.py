"""Containment: what an agent raises ends its run, and not the process with every other run in it.

asyncio hands an ``Exception`` to whoever awaits the task, and passes ``SystemExit`` and ``KeyboardInterrupt`` on to the
loop, which ends.  In the agent's own call that can be caught; in a task that the agent creates it cannot, unless the
task is made around it.  So while a worker runs, its loop makes the tasks of agents, and those that these create, around
a coroutine that turns both into ``AgentExited``.  Whether a task is an agent's is told by its context, which tasks pass
on to those that they create; all other tasks of the process are made as before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tailrace.errors import TailraceError

_IN_AGENT: ContextVar[bool] = ContextVar("tailrace_in_agent", default=False)


class AgentExited(TailraceError):
    """The agent tried to end the process."""


@contextmanager
def containing() -> Iterator[None]:
    """Contain the tasks of agents in the running loop inside the block, on top of the task factory that it has."""
    loop = asyncio.get_running_loop()
    earlier = loop.get_task_factory()

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        context = options.get("context")
        in_agent = _IN_AGENT.get() if context is None else context.get(_IN_AGENT, False)
        made = _contained(coroutine) if in_agent else coroutine
        task = earlier(loop, made, **options) if earlier is not None else asyncio.Task(made, loop=loop, **options)
        if in_agent:
            # Cancelled before its first step, a task never awaits what it was made around.
            task.add_done_callback(lambda _: coroutine.close())
        return task

    loop.set_task_factory(make)
    try:
        yield
    finally:
        if loop.get_task_factory() is make:
            loop.set_task_factory(earlier)


async def call_contained(agent: Coroutine[Any, Any, Any]) -> Any:
    """Await an agent in a task of its own; what it and the tasks that it creates raise is contained."""
    _IN_AGENT.set(True)
    return await _contained(agent)


async def _contained(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    except SystemExit as error:
        raise AgentExited(f"the agent called sys.exit({error.code!r})") from error
    except KeyboardInterrupt as error:
        raise AgentExited("the agent raised KeyboardInterrupt") from error
