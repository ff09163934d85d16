"""How an application takes a connection over in the midst of its answer: what our server and a stream agree on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

# The ASGI extension: {"detach": callable -> Detached | None}, to be called once the answer's head is sent.
DETACH = "tailrace.detach"


class Detached(NamedTuple):
    """A connection in the midst of a chunked answer whose head is written.

    :param connections: those of the server; whoever holds the connection stands in it, with ``transport`` and
        ``shutdown()``.
    :param keep_alive: whether another request may follow.
    :param give_back: goes on with HTTP after the answer: ``(received meanwhile, is write paused, may go on)``.
    """

    transport: asyncio.Transport
    connections: set[Any]
    keep_alive: bool
    give_back: Callable[[bytes, bool, bool], None]
