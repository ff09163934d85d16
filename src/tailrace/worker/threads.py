"""Plain functions run in threads, so that they do not hold up the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

# More calls wait for a thread; a process of a few cores gains nothing from more.
THREADS_MAX = 64


class Threads:
    """Runs plain functions in daemon threads, at most ``THREADS_MAX`` at a time.

    Daemon, because Python cannot stop a thread: a function that hangs must not keep a process from ending.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(THREADS_MAX)

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return ``function(*args)``.  If cancelled, the call returns at once and the thread ends when it ends."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def finish(value: Any, error: BaseException | None) -> None:
            self._free.release()
            if result.done():
                return
            if error is None:
                result.set_result(value)
            else:
                result.set_exception(error)

        def run() -> None:
            value: Any = None
            failure: BaseException | None = None
            try:
                value = context.run(function, *args)
            except StopIteration as error:
                # A future cannot carry StopIteration.
                failure = RuntimeError(f"{function!r} raised StopIteration: {error}")
            except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the caller
                failure = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(finish, value, failure)

        threading.Thread(target=run, name=f"tailrace-{getattr(function, '__name__', 'call')}", daemon=True).start()
        return await result
