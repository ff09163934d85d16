"""Durable, resumable event streams for AI-agent runs, on Postgres.

agent code → events persisted in Postgres, in order → an outbox, the only publisher, publishes in order
→ bus → SSE with backfill → browser
"""

__version__ = "0.1.0"

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
