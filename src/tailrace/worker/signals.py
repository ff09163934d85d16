"""Signals: how a process learns that it should stop.

A server that is asked to stop waits for its open responses, and an event stream never ends by itself (measured:
uvicorn hangs until it is killed).  So whoever serves streams must hear of SIGTERM before the server waits.  The
handlers that are in place, the server's own, are kept and called afterwards.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_stop(callback: Callable[[str], None], *, is_last: bool = False) -> Iterator[None]:
    """Call ``callback`` with the signal's name in the running loop when the process is asked to stop.

    Does nothing outside the main thread, where Python allows no handlers.

    :param is_last: the caller ends the process itself, so the default action, which would end it at once, is left out
        for the first signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def handle(number: int, stack: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(callback, signal.Signals(number).name)
        earlier = previous[signal.Signals(number)]
        if is_last:
            signal.signal(number, earlier)
        elif callable(earlier):
            earlier(number, stack)
        elif earlier is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in STOP_SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, earlier in previous.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, earlier)
