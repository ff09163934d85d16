"""The worker: claims runs, keeps their leases, executes them, and gives them back when it stops."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from tailrace.errors import DatabaseUnavailable
from tailrace.model.run import Lease, RunState
from tailrace.store.leases import Leases
from tailrace.telemetry import DutyFailed, JobEnded, JobStarted, Telemetry
from tailrace.worker.attendance import Attendance
from tailrace.worker.containment import containing
from tailrace.worker.cutoff import CutOff
from tailrace.worker.duties import BACKOFF_MAX_SECONDS, Duty
from tailrace.worker.execution import CANCEL_GRACE_SECONDS, Agent, Execution
from tailrace.worker.places import Places
from tailrace.worker.run import Run
from tailrace.worker.threads import Threads
from tailrace.write.appender import Appender
from tailrace.write.starter import Host

# The fallbacks of the wake-ups for a queued run and for a cancellation.
CLAIM_POLL_SECONDS = 1.0
CANCEL_POLL_SECONDS = 1.0
# How late a worker that cannot reach Postgres may notice that its lease is over.
LEASE_WATCH_SECONDS = 0.5
# A lease is renewed three times in its length, so that one lost renewal costs nothing.
RENEWALS_PER_LEASE = 3
KEPT_RETRY_SECONDS = 0.5
CLAIM_MAX_RUNS = 50
# An agent that no worker has served for this many leases is gone: its record is renewed as often as a lease, so six
# renewals in a row are missing.
GONE_AFTER_LEASES = 2
# Most runs of gone agents that one turn ends.
ORPHANS_MAX_RUNS = 50


class Worker:
    """Executes runs of the given agents, at most ``concurrency`` at a time."""

    def __init__(
        self,
        agents: Mapping[str, Agent],
        *,
        leases: Leases,
        appender: Appender,
        telemetry: Telemetry,
        lease_seconds: float,
        concurrency: int,
        max_event_bytes: int,
        stall_seconds: float,
    ) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._agents = agents
        self._leases = leases
        self._appender = appender
        self._telemetry = telemetry
        self._lease_seconds = lease_seconds
        self._max_event_bytes = max_event_bytes
        self._stall_seconds = stall_seconds
        self._attendance = Attendance(sorted(agents), leases, lease_seconds=lease_seconds)
        self._cut_off = CutOff(leases)
        self._threads = Threads()
        self._executions: dict[str, Execution] = {}
        self._tasks = asyncio.TaskGroup()
        self._in_progress: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.Event()
        self._renewed_at: dict[str, float] = {}
        self._orphans = asyncio.Event()
        # Whether there was no room for a run that may have been there: then the end of one is a reason to claim.
        self._full = False
        # Whether the last claim has left nothing behind that a new run would overtake.
        self._queue_empty = False
        self._places = Places(self.name, leases, concurrency=concurrency, lease_seconds=lease_seconds)
        self.host = Host(self.name, lease_seconds, self._reserve, self._settle)
        self._ended = asyncio.Event()
        self.jobs = asyncio.Event()
        self.cancels = asyncio.Event()

    def duties(self) -> list[Duty]:
        """Return what has to be done again and again while the worker runs."""
        renewal = self._lease_seconds / RENEWALS_PER_LEASE
        # After an outage, what keeps a lease or a record alive must not wait longer than it would without one.
        retry = min(BACKOFF_MAX_SECONDS, renewal)
        return [
            Duty("worker.claim", self.claim_once, CLAIM_POLL_SECONDS, self.jobs),
            Duty("worker.renew", self.renew_once, renewal, retry_max_seconds=retry),
            Duty("worker.agents", self._attendance.record_once, renewal, retry_max_seconds=retry),
            Duty("worker.orphans", self.end_orphans_once, renewal, self._orphans),
            Duty("worker.leases", self.watch_leases_once, min(LEASE_WATCH_SECONDS, renewal)),
            Duty("worker.cancels", self.watch_cancels_once, CANCEL_POLL_SECONDS, self.cancels),
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Accept runs inside the block; at its end stop those in progress and give their leases back."""
        with containing():
            async with self._tasks:
                self._accepting.set()
                self.jobs.set()
                self._orphans.set()
                try:
                    yield
                finally:
                    self._accepting.clear()
                    await self._stop()

    def cancel(self, run_id: str) -> None:
        """Cancel a run if this worker holds it."""
        if (execution := self._executions.get(run_id)) is not None:
            execution.stop("cancelled")

    async def claim_once(self) -> bool:
        """Claim runs and begin to execute them; return whether there may be more at once."""
        await self._cut_off.tell_once()
        await self._places.give_back_once(self._executions)
        limit = min(CLAIM_MAX_RUNS, self._places.room(len(self._executions)))
        self._full = limit <= 0
        self._queue_empty = self._queue_empty and not self._full
        if limit <= 0 or not self._agents or not self._accepting.is_set():
            return False
        before = asyncio.get_running_loop().time()
        with self._places.claim(limit):
            leases = await self._leases.claim(
                worker=self.name, agents=list(self._agents), limit=limit, lease_seconds=self._lease_seconds
            )
        for lease in leases:
            if self._accepting.is_set():
                self._begin(lease, self._agents[lease.agent], claimed_at=before)
            else:
                await self._leases.release({lease.run_id: lease.epoch}, worker=self.name)
        self._queue_empty = len(leases) < limit
        return not self._queue_empty

    async def end_orphans_once(self) -> bool:
        """End runs whose agents nobody serves any more; return whether there may be more at once.

        They take no place from runs that can be executed: a turn ends its orphans, a bounded number, before it returns.
        """
        witnessed = self._attendance.witnessed_seconds()
        silence = GONE_AFTER_LEASES * self._lease_seconds
        if witnessed < silence or not self._accepting.is_set():
            return False
        before = asyncio.get_running_loop().time()
        with self._places.claim(0):
            leases = await self._leases.claim_orphans(
                worker=self.name,
                limit=ORPHANS_MAX_RUNS,
                lease_seconds=self._lease_seconds,
                started_seconds=silence,
                queued_seconds=max(silence, self._stall_seconds) if witnessed >= self._stall_seconds else None,
            )
        if not self._accepting.is_set():
            await self._leases.release({lease.run_id: lease.epoch for lease in leases}, worker=self.name)
            return False
        tasks = [self._begin(lease, None, claimed_at=before) for lease in leases]
        if tasks:
            await asyncio.wait(tasks)
        return len(leases) == ORPHANS_MAX_RUNS

    async def renew_once(self) -> bool:
        """Prolong the leases of the runs in progress and stop those that were lost."""
        epochs = {run_id: execution.lease.epoch for run_id, execution in self._executions.items()}
        if epochs:
            before = asyncio.get_running_loop().time()
            self._cut_off.asked({run: epoch for run, epoch in epochs.items() if not self._is_over(run, before)})
            held = await self._leases.renew(epochs, self._lease_seconds)
            self._cut_off.answered(epochs)
            for run_id, epoch in epochs.items():
                execution = self._executions.get(run_id)
                if run_id in held:
                    self._renewed_at[run_id] = before
                elif execution is not None and execution.lease.epoch == epoch:
                    execution.stop("lease-lost")
        return False

    async def watch_leases_once(self) -> bool:
        """Stop the runs whose lease has run out by this process's own clock.

        It asks nobody: when Postgres is away, or does not answer, others may reach it and take the runs over.
        """
        now = asyncio.get_running_loop().time()
        for run_id, execution in list(self._executions.items()):
            if self._is_over(run_id, now):
                self._cut_off.lost(run_id, execution.lease.epoch)
                execution.stop("lease-lost")
        return False

    def _is_over(self, run_id: str, now: float) -> bool:
        return now - self._renewed_at.get(run_id, now) > self._lease_seconds

    async def watch_cancels_once(self) -> bool:
        """Cancel the runs in progress that were asked to end."""
        if self._executions:
            for run_id in await self._leases.cancelled(list(self._executions)):
                self.cancel(run_id)
        return False

    def _reserve(self, agent: str) -> bool:
        """Keep a place for a run that is to be born under this worker's lease, unless it would overtake the queue."""
        may_have = self._queue_empty and agent in self._agents and self._accepting.is_set()
        may_have = may_have and self._places.room(len(self._executions)) > 0
        self._places.starting += may_have
        return may_have

    def _settle(self, run_ids: Sequence[str], leases: Sequence[Lease] | None, since: float) -> None:
        """Begin the runs that were born under this worker's lease; ``leases`` is None when that is not known."""
        self._places.starting -= len(run_ids)
        if leases is None or not self._accepting.is_set():
            self._places.lose(len(run_ids))
        else:
            for lease in leases:
                self._begin(lease, self._agents[lease.agent], claimed_at=since)
        self._ended.set()
        if self._full or self._places.looking:
            self.jobs.set()

    def _begin(self, lease: Lease, agent: Agent | None, *, claimed_at: float) -> asyncio.Task[None]:
        # A run may come back to the worker that was frozen while it held it: the older execution is over.
        if (older := self._executions.pop(lease.run_id, None)) is not None:
            older.stop("lease-lost")
        kept_steps: dict[str, str] = {}
        run = Run(
            lease,
            appender=self._appender,
            telemetry=self._telemetry,
            threads=self._threads,
            kept_steps=kept_steps,
            max_event_bytes=self._max_event_bytes,
        )
        execution = Execution(lease, agent, run, appender=self._appender, max_event_bytes=self._max_event_bytes)
        self._executions[lease.run_id] = execution
        self._renewed_at[lease.run_id] = claimed_at
        if lease.cancel_requested:
            execution.stop("cancelled")
        task = self._tasks.create_task(self._execute(execution, kept_steps), name=f"run {lease.run_id}")
        self._in_progress.add(task)
        task.add_done_callback(self._in_progress.discard)
        return task

    async def _execute(self, execution: Execution, kept_steps: dict[str, str]) -> None:
        lease, trace = execution.lease, execution.trace
        self._telemetry.tell(JobStarted(lease.run_id, lease.agent, lease.epoch, lease.resumed, trace))
        try:
            if lease.resumed:
                kept_steps.update(await self._kept_steps(lease.run_id))
            with execution.traced(self._telemetry) as ending:
                state = await execution.execute()
                ending.error = state if state == RunState.FAILED else None
            self._telemetry.tell(JobEnded(lease.run_id, lease.agent, state, trace))
        except Exception as error:  # noqa: BLE001 - one run's trouble must not end the others; its lease runs out
            self._telemetry.tell(DutyFailed("worker.execute", f"run {lease.run_id}: {error}", self._lease_seconds))
        finally:
            if self._executions.get(lease.run_id) is execution:
                del self._executions[lease.run_id]
                self._renewed_at.pop(lease.run_id, None)
            self._ended.set()
            if self._full:
                self.jobs.set()

    async def _kept_steps(self, run_id: str) -> dict[str, str]:
        """Return the kept results, as soon as Postgres gives them: the lease is renewed meanwhile.

        To drop the run for this would leave it to its lease, and count as the death of a worker.
        """
        while True:
            try:
                return await self._leases.kept_steps(run_id)
            except DatabaseUnavailable as error:
                self._telemetry.tell(DutyFailed("worker.execute", f"run {run_id}: {error}", KEPT_RETRY_SECONDS))
            await asyncio.sleep(KEPT_RETRY_SECONDS)

    async def _stop(self) -> None:
        places, may_hold = self._places, bool(self._executions or self._places.claims)
        for execution in self._executions.values():
            execution.stop("released")
        deadline = asyncio.get_running_loop().time() + CANCEL_GRACE_SECONDS
        while (self._executions or places.starting or places.claims) and asyncio.get_running_loop().time() < deadline:
            self._ended.clear()
            try:
                async with asyncio.timeout(0.1):  # for claims, which end by themselves
                    await self._ended.wait()
            except TimeoutError:
                continue
        # What is left waits for Postgres; a process that was asked to stop does not.
        for task in self._in_progress:
            task.cancel()
        if may_hold or places.looking:
            try:
                await self._leases.release(await self._leases.held(self.name), worker=self.name)
            except DatabaseUnavailable as error:
                self._telemetry.tell(DutyFailed("worker.release", str(error), self._lease_seconds))
