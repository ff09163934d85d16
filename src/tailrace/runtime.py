"""What runs while an App runs: the one place where concrete classes are chosen, opened and closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal, assert_never

from tailrace.access.credentials import Credentials, FileCredentials
from tailrace.archive.opening import KEEP_RETRY_SECONDS, KEEP_SECONDS, keeping, open_vault
from tailrace.archive.reader import ArchivedEvents
from tailrace.bus.choice import choose_bus
from tailrace.bus.linked import RETRY_SECONDS
from tailrace.errors import SettingsError, TailraceError
from tailrace.exporters.logs import LogExporter
from tailrace.exporters.prometheus import PrometheusExporter
from tailrace.http.live import LiveStreams
from tailrace.http.services import Services
from tailrace.opening import open_database
from tailrace.read.hub import Hub
from tailrace.settings import Settings
from tailrace.store.archives import Archives, holder_name
from tailrace.store.database import Database
from tailrace.store.doorbell import Doorbell, Ring
from tailrace.store.events import RunAppend
from tailrace.store.leases import Leases
from tailrace.store.migrate import require_current
from tailrace.store.outbox import Outbox
from tailrace.store.runs import Runs
from tailrace.telemetry import ARCHIVE_DUTY, DutyFailed, Exporter, ProcessStopping, Telemetry
from tailrace.worker.duties import Duty, perform
from tailrace.worker.execution import Agent
from tailrace.worker.signals import on_stop
from tailrace.worker.worker import Worker
from tailrace.write.appender import LANES, Appender
from tailrace.write.orchestrate import Orchestrator
from tailrace.write.publisher import Publisher

if TYPE_CHECKING:
    from tailrace.exporters.otel import OtelExporter

Role = Literal["api", "worker", "outbox"]
ROLES: tuple[Role, ...] = ("api", "worker", "outbox")
# The wake-ups that drive these are in the process; the interval is only there for the loop to have one.
WOKEN_INTERVAL_SECONDS = 60.0
# How often streams are compared with the database while the bus brings nothing.
DEAF_POLL_SECONDS = 1.0
# What a stopping process may take to publish what its runs have just written.
DRAIN_SECONDS = 2.0


@asynccontextmanager
async def run_roles(
    settings: Settings, agents: Mapping[str, Agent], roles: Collection[Role], *, exporters: Sequence[Exporter] = ()
) -> AsyncIterator[Services]:
    """Run the given roles in this process inside the block.

    :raises SchemaMismatch: the database is behind or ahead of this code.
    :raises SettingsError: the settings do not fit the roles, or the keys file cannot be used.
    """
    metrics = PrometheusExporter()
    logs = LogExporter(level=settings.log_level, log_events=settings.log_events)
    spans = _spans(settings)
    telemetry = Telemetry((metrics, logs, *([spans] if spans is not None else []), *exporters))
    if settings.bus_url.get_secret_value() == "memory://" and set(roles) != set(ROLES):
        raise SettingsError(
            "TAILRACE_BUS_URL=memory:// serves one process with all roles; use postgres:// to split them"
        )
    credentials = _credentials(settings, telemetry)
    async with AsyncExitStack() as stack:
        if spans is not None:
            stack.push_async_callback(asyncio.to_thread, spans.close)
        database = await stack.enter_async_context(open_database(settings))
        await require_current(database)
        parts = _Parts(settings, database, telemetry, metrics, agents, credentials, tracing=spans is not None)
        await stack.enter_async_context(parts.running(roles))
        yield parts.services


def _spans(settings: Settings) -> OtelExporter | None:
    """Return what sends spans, None where no collector is named or the SDK is not installed."""
    if settings.otlp_endpoint is None:
        return None
    try:
        # Optional, and half a second to import: for those alone who name a collector.
        from tailrace.exporters.otel import OtelExporter  # noqa: PLC0415
    except ModuleNotFoundError:
        return None  # The variable is everybody's: it may be set for other programs of the machine.
    return OtelExporter(settings.otlp_endpoint, version=version("tailrace"))


def _credentials(settings: Settings, telemetry: Telemetry) -> Credentials:
    token_seconds, resume_seconds = settings.stream_token_seconds, settings.stream_token_resume_seconds
    if settings.api_keys_file is None:
        return Credentials(token_seconds=token_seconds, resume_seconds=resume_seconds)
    return FileCredentials(
        settings.api_keys_file, telemetry, token_seconds=token_seconds, resume_seconds=resume_seconds
    )


class _Parts:
    """The parts of one process and how they ring each other."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        telemetry: Telemetry,
        metrics: PrometheusExporter,
        agents: Mapping[str, Agent],
        credentials: Credentials,
        *,
        tracing: bool,
    ) -> None:
        self._settings = settings
        self._agents = agents
        self._telemetry = telemetry
        self._doorbell = Doorbell(database, telemetry)
        self._archives = Archives(database, holder_name())
        self._vault = open_vault(settings.archive_url) if settings.archive_url is not None else None
        self._events = ArchivedEvents(database, self._archives, self._vault)
        self._leases = Leases(database)
        self._bus_duties: list[Duty] = []
        bus, link_once = choose_bus(
            settings.bus_url.get_secret_value(), settings.db_schema, self._doorbell, self._telemetry
        )
        if link_once is not None:
            self._bus_duties.append(Duty("bus.link", link_once, RETRY_SECONDS))
        runs, outbox = Runs(database), Outbox(database)
        self._hub = Hub(bus, self._events, still_holds=credentials.still_holds)
        self._live = LiveStreams(settings, self._hub, self._events, credentials, telemetry)
        timeout = settings.tx_timeout_ms / 2000
        self._publishes = False
        self._publisher = Publisher(outbox, bus, telemetry, bus_timeout_seconds=timeout)
        orchestrator = Orchestrator(runs, self._doorbell, telemetry, on_committed=self._committed, tracing=tracing)
        self._starter = orchestrator.starter
        self.services = Services(
            settings=settings,
            database=database,
            bus=bus,
            hub=self._hub,
            runs=runs,
            events=self._events,
            archived=self._events,
            archives=self._archives,
            outbox=outbox,
            leases=self._leases,
            orchestrator=orchestrator,
            telemetry=telemetry,
            metrics=metrics,
            agents=agents.keys(),
            credentials=credentials,
            live=self._live,
        )

    @asynccontextmanager
    async def running(self, roles: Collection[Role]) -> AsyncIterator[None]:
        """Perform the duties of the roles inside the block; at its end stop what is open, in the order of the data."""
        async with AsyncExitStack() as stack:
            if self._vault is not None:
                stack.callback(self._vault.close)
            duties = [
                Duty("doorbell.listen", self._doorbell.listen_once, 0.05),
                Duty("starter.flush", self._starter.flush_once, WOKEN_INTERVAL_SECONDS, self._starter.work),
                Duty("doorbell.flush", self._doorbell.flush, WOKEN_INTERVAL_SECONDS, self._doorbell.waiting),
                *self._bus_duties,
            ]
            for role in ROLES:
                if role in roles:
                    duties += self._duties_of(role)
            tasks = [asyncio.create_task(perform(duty, self._telemetry), name=duty.name) for duty in duties]
            stack.push_async_callback(_cancel_all, tasks)
            stack.callback(self._starter.close)
            if "outbox" in roles:
                stack.push_async_callback(self._drain)
            if "worker" in roles:
                await self._start_worker(stack)
            if "api" in roles:
                stack.push_async_callback(self._live.close)
                stack.callback(self._hub.close)
            stack.enter_context(on_stop(self._stopping))
            yield

    def _duties_of(self, role: Role) -> list[Duty]:
        settings = self._settings
        match role:
            case "api":
                return [
                    Duty("hub.fill", self._hub.fill_once, WOKEN_INTERVAL_SECONDS, self._hub.fill),
                    Duty("hub.tails", self._hub.check_tails_once, settings.heartbeat_seconds, self._hub.check_tails),
                    Duty("hub.new", self._hub.check_new_once, WOKEN_INTERVAL_SECONDS, self._hub.check_new),
                    Duty("streams.sweep", self._live.sweep_once, self._live.sweep_seconds),
                    Duty("hub.poll", self._hub.poll_once, DEAF_POLL_SECONDS),
                ]
            case "outbox":
                self._publishes = True
                self._doorbell.on(Ring.EVENTS, lambda run_id: self._publisher.hint((run_id,)))
                self._doorbell.on_restored(self._publisher.sweep.set)
                poll = settings.outbox_poll_ms / 1000
                publisher = self._publisher
                return [
                    Duty("outbox.hand_over", publisher.hand_over_once, WOKEN_INTERVAL_SECONDS, publisher.news),
                    Duty("outbox.publish", publisher.publish_once, WOKEN_INTERVAL_SECONDS, publisher.work),
                    Duty("outbox.sweep", publisher.sweep_once, poll, publisher.sweep),
                ]
            case "worker":
                if self._vault is None:
                    return []
                keep_once = keeping(self._archives, self._vault, self._telemetry, settings.retention_days)
                return [Duty(ARCHIVE_DUTY, keep_once, KEEP_SECONDS, retry_max_seconds=KEEP_RETRY_SECONDS)]
            case _:
                assert_never(role)

    async def _start_worker(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        appender = Appender(self._events, self._telemetry, on_committed=self._committed)
        worker = Worker(
            self._agents,
            leases=self._leases,
            appender=appender,
            telemetry=self._telemetry,
            lease_seconds=settings.lease_seconds,
            concurrency=settings.worker_concurrency,
            max_event_bytes=settings.max_event_bytes,
            stall_seconds=settings.stall_seconds,
        )
        self._doorbell.on(Ring.JOBS, lambda _: worker.jobs.set())
        self._doorbell.on(Ring.CANCEL, worker.cancel)
        self._doorbell.on_restored(worker.jobs.set)
        self._doorbell.on_restored(worker.cancels.set)
        await self._leases.record_agents(sorted(self._agents))
        self._starter.host = worker.host
        duties = [
            *(
                Duty("appender.flush", partial(appender.flush_once, lane), WOKEN_INTERVAL_SECONDS, appender.work)
                for lane in range(LANES)
            ),
            *worker.duties(),
        ]
        tasks = [asyncio.create_task(perform(duty, self._telemetry), name=duty.name) for duty in duties]
        stack.push_async_callback(_cancel_all, tasks)
        stack.callback(appender.close)
        await stack.enter_async_context(worker.running())

    def _committed(self, appends: Sequence[RunAppend]) -> None:
        """Hand what was committed to the publisher of this process, or ring for those of others."""
        if self._publishes:
            self._publisher.committed(appends)
            return
        for add in appends:
            self._doorbell.ring(Ring.EVENTS, add.run_id)

    def _stopping(self, cause: str) -> None:
        self._telemetry.tell(ProcessStopping(cause))
        self._hub.close()

    async def _drain(self) -> None:
        """Publish what is left, as far as it goes: another process, or the next start, publishes the rest."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while await self._publisher.sweep_once() or self._publisher.has_work:
                    await self._publisher.hand_over_once()
                    await self._publisher.publish_once()
        except (TimeoutError, TailraceError) as error:
            self._telemetry.tell(DutyFailed("outbox.drain", str(error) or "out of time", 0.0))


async def _cancel_all(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
