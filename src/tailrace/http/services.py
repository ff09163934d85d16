"""What the endpoints need from a running App."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from tailrace.access.credentials import Credentials
from tailrace.archive.reader import ArchivedEvents
from tailrace.bus.bus import Bus
from tailrace.exporters.prometheus import PrometheusExporter
from tailrace.http.live import LiveStreams
from tailrace.http.siblings import Siblings
from tailrace.read.hub import Hub
from tailrace.settings import Settings
from tailrace.store.archives import Archives
from tailrace.store.database import Database
from tailrace.store.events import Events
from tailrace.store.leases import Leases
from tailrace.store.outbox import Outbox
from tailrace.store.runs import Runs
from tailrace.telemetry import Telemetry
from tailrace.write.orchestrate import Orchestrator


@dataclass(slots=True)
class Services:
    """The parts of one process, as far as HTTP uses them; ``streams_open`` counts the open event streams.

    ``siblings`` are the processes beside it on the same port, None when it is alone.
    """

    settings: Settings
    database: Database
    bus: Bus
    hub: Hub
    runs: Runs
    events: Events
    archived: ArchivedEvents
    archives: Archives
    outbox: Outbox
    leases: Leases
    orchestrator: Orchestrator
    telemetry: Telemetry
    metrics: PrometheusExporter
    agents: Collection[str]
    credentials: Credentials
    live: LiveStreams
    streams_open: int = 0
    siblings: Siblings | None = None

    def __post_init__(self) -> None:
        """Count the streams that end without a task."""
        self.live.on_end = self._stream_ended

    def _stream_ended(self) -> None:
        self.streams_open -= 1


# Raises NotStarted until the App runs.
GetServices = Callable[[], Services]
