"""Durable, resumable event streams for AI-agent runs, on Postgres.

agent code → events persisted in Postgres, in order → an outbox, the only publisher, publishes in order
→ bus → SSE with backfill → browser
"""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailrace.app import App
    from tailrace.client import Client
    from tailrace.errors import (
        EventTooLarge,
        InvalidEvent,
        LeaseLost,
        NodeTimeout,
        RunTerminated,
        TailraceError,
    )
    from tailrace.model.event import Event, EventType
    from tailrace.model.run import RunState
    from tailrace.settings import Settings
    from tailrace.worker.run import Run

__all__ = [
    "App",
    "Client",
    "Event",
    "EventTooLarge",
    "EventType",
    "InvalidEvent",
    "LeaseLost",
    "NodeTimeout",
    "Run",
    "RunState",
    "RunTerminated",
    "Settings",
    "TailraceError",
    "__version__",
]

# Where each name lives.  They are imported when they are first asked for: the web framework and all that comes with it
# takes longer to import than most commands of the command line take for the rest.
_HOMES = {
    "App": "app",
    "Client": "client",
    "Event": "model.event",
    "EventTooLarge": "errors",
    "EventType": "model.event",
    "InvalidEvent": "errors",
    "LeaseLost": "errors",
    "NodeTimeout": "errors",
    "Run": "worker.run",
    "RunState": "model.run",
    "RunTerminated": "errors",
    "Settings": "settings",
    "TailraceError": "errors",
}


def __getattr__(name: str) -> Any:
    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
