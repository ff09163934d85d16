"""How an event stream says that it ends, and when its client is to come again.  Pure but for the jitter."""

from __future__ import annotations

import random

from tailrace.read.frame import retry

RETRY_MS = 1000
# After trouble, spread out, so that the clients of a server that went away do not come back in one moment.
TROUBLE_RETRY_MS = (1000, 5000)


def farewell(reason: str) -> bytes:
    """Return the last block of a stream that ends for ``reason``; jittered, and empty after the terminal event."""
    match reason:
        case "terminal":
            return b""
        case "rotated":
            return retry(random.randint(0, RETRY_MS))  # noqa: S311 - spreads, guards nothing
        case _:
            return retry(random.randint(*TROUBLE_RETRY_MS))  # noqa: S311 - as above
