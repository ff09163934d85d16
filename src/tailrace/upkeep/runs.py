"""Runs that do not go on: not published, with a gap, not started, stalled, or without a living worker.

The runs are looked at twice, a second apart, and only what is wrong both times is a finding: events on their way, a run
that is just being claimed and a lease that is just being taken over are none.  What is wrong with one run is said by
pure functions of its figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tailrace.errors import RunNotFound
from tailrace.model.run import CANARY_AGENT_PREFIX, RunState, is_run_id
from tailrace.store.health import Figures, Health, Holder
from tailrace.upkeep.finding import Code, Finding, Severity

# The operators' bounds: a lag under 100 ms is normal, over 500 ms critical.
LAG_WARNING_SECONDS = 0.1
LAG_CRITICAL_SECONDS = 0.5
LOOK_AGAIN_SECONDS = 1.0
# Workers look for queued runs and for expired leases every second, woken or not.
QUEUED_SECONDS = 5.0
EXPIRED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What counts as too long, and how many runs one worker executes; from the settings."""

    stall_seconds: float
    lease_seconds: float
    worker_concurrency: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What bears on every run: how many leases are held, and who holds locks of the outbox for long."""

    leases_held: int
    holders: Sequence[Holder]


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found, and the figures of the one run that was asked for."""

    findings: Sequence[Finding]
    figures: Figures | None = None


async def examine_runs(health: Health, bounds: Bounds, run_id: str | None) -> Examined:
    """Look at the runs that are suspect, or at one, twice.

    :raises RunNotFound: there is no run ``run_id``.
    """
    totals: Mapping[str, int] = {}
    if run_id is None:
        suspects, totals = await _suspects(health, bounds)
    else:
        suspects = [run_id] if is_run_id(run_id) else []
    before = await health.figures(suspects) if suspects else {}
    if run_id is not None and run_id not in before:
        raise RunNotFound(f"there is no run {run_id[:128]!r}")
    before = {suspect: each for suspect, each in before.items() if not each.agent.startswith(CANARY_AGENT_PREFIX)}
    if not before:
        return Examined(())
    await asyncio.sleep(LOOK_AGAIN_SECONDS)
    now = await health.figures(list(before))
    around = Surroundings(await health.leases_held(), await health.outbox_holders())
    findings = [
        finding
        for suspect in suspects
        if suspect in now and suspect in before
        for finding in diagnose(before[suspect], now[suspect], bounds, around)
    ]
    findings = [_with_total(finding, totals) for finding in findings]
    return Examined(findings, now.get(run_id) if run_id is not None else None)


async def _suspects(health: Health, bounds: Bounds) -> tuple[list[str], dict[str, int]]:
    found = {
        Code.OUTBOX_BEHIND: await health.suspects("behind", LAG_WARNING_SECONDS),
        Code.SEQ_GAP: await health.with_gaps(),
        Code.NOT_STARTED: await health.suspects("queued", QUEUED_SECONDS),
        Code.STALLED: await health.suspects("stalled", bounds.stall_seconds),
        Code.LEASE_EXPIRED: await health.suspects("expired", EXPIRED_SECONDS),
    }
    names = list(dict.fromkeys(name for names, _ in found.values() for name in names))
    return names, {code: total for code, (names, total) in found.items() if total > len(names)}


def _with_total(finding: Finding, totals: Mapping[str, int]) -> Finding:
    if (total := totals.get(finding.code)) is None:
        return finding
    detail = f"{finding.detail} (one of about {total} such runs; the worst are named)"
    return Finding(finding.code, finding.severity, detail, finding.action, finding.run_id)


def diagnose(before: Figures, now: Figures, bounds: Bounds, around: Surroundings) -> list[Finding]:
    """Return what is wrong with a run that looked like ``before`` and a moment later like ``now``."""
    found = (
        _gap(before, now),
        _behind(before, now, around),
        _not_started(now, bounds, around),
        _stalled(now, bounds),
        _expired(now),
    )
    return [finding for finding in found if finding is not None]


def _gap(before: Figures, now: Figures) -> Finding | None:
    missing = now.missing_seq
    if missing is None or missing != before.missing_seq:
        return None
    stands = "the outbox stands before it" if missing >= now.next_seq else "it was published"
    return Finding(
        Code.SEQ_GAP,
        "critical",
        f"the event {missing} is not there: the last good seq is {missing - 1}, last_seq {now.last_seq}, next_seq "
        f"{now.next_seq}; {stands}",
        "tell engineering at once, with the run, the missing seq and the last good one: it is an append bug or a "
        "deleted row; insert nothing by hand",
        now.run_id,
    )


def _behind(before: Figures, now: Figures, around: Surroundings) -> Finding | None:
    age, earlier = now.next_age_seconds, before.next_age_seconds
    if now.next_published or now.next_type is None or now.backlog <= 0:
        return None  # Caught up, or the next one is missing, which is a gap.
    if age is None or earlier is None or min(age, earlier) < LAG_WARNING_SECONDS:
        return None
    stuck = now.next_seq == before.next_seq
    severity: Severity = "critical" if stuck or max(age, earlier) > LAG_CRITICAL_SECONDS else "warning"
    held = "".join(
        f"; the session {of.pid} ({of.state}) has held locks of the outbox for {of.held_seconds:.1f} s"
        for of in around.holders
    )
    progress = (
        f"nothing of it was published for {now.outbox_silent_seconds:.1f} s"
        if stuck
        else f"{now.next_seq - before.next_seq} events were published within {LOOK_AGAIN_SECONDS:g} s"
    )
    return Finding(
        Code.OUTBOX_BEHIND,
        severity,
        f"{now.backlog} events are persisted and not published, the oldest for {age * 1000:.0f} ms (next_seq "
        f"{now.next_seq}, last_seq {now.last_seq}): {progress}{held}",
        "restart the outbox (`tailrace serve --role outbox`, or all roles), or start one; when it is slow, start more "
        "of them; never touch published_at or next_seq by hand",
        now.run_id,
    )


def _not_started(now: Figures, bounds: Bounds, around: Surroundings) -> Finding | None:
    if now.state != RunState.QUEUED or now.age_seconds < QUEUED_SECONDS:
        return None
    waited = f"queued for {now.age_seconds:.1f} s"
    unseen = now.agent_unseen_seconds
    if unseen is None:
        detail = f"{waited}: no worker has ever served the agent {now.agent!r}"
    elif unseen > bounds.lease_seconds:
        detail = f"{waited}: no worker has served the agent {now.agent!r} for {unseen:.1f} s"
    elif around.leases_held < bounds.worker_concurrency:
        detail = f"{waited}: a worker with the agent {now.agent!r} was there {unseen:.1f} s ago and has not taken it"
    elif now.age_seconds > bounds.stall_seconds:
        detail = f"{waited}: the workers execute {around.leases_held} runs, as many as they may"
    else:
        return None
    return Finding(
        Code.NOT_STARTED,
        "critical",
        detail,
        "start a worker that has the agent (`tailrace serve --app … --role worker`), restart one that is frozen, or "
        "start more; `tailrace runs cancel` ends a run that nobody wants any more",
        now.run_id,
    )


def _stalled(now: Figures, bounds: Bounds) -> Finding | None:
    if now.state != RunState.STARTED or now.silent_seconds < bounds.stall_seconds:
        return None
    asked = "; it was asked to end" if now.cancel_requested else ""
    return Finding(
        Code.STALLED,
        "warning",
        f"no new event for {now.silent_seconds:.1f} s, the last is {now.last_seq}; {_lease(now)}{asked}",
        "look at the worker's log and at what the agent waits for; `tailrace runs cancel` ends the run once it is "
        "known to be abandoned; change no row by hand",
        now.run_id,
    )


def _expired(now: Figures) -> Finding | None:
    left = now.lease_left_seconds
    if now.state != RunState.STARTED or left is None or left > -EXPIRED_SECONDS:
        return None
    return Finding(
        Code.LEASE_EXPIRED,
        "critical",
        f"{_lease(now)}, and no worker has taken the run over",
        "start a worker that has the agent, or restart one that is frozen or full: it takes the run over and "
        "resumes it after its last kept step",
        now.run_id,
    )


def _lease(now: Figures) -> str:
    left, owner = now.lease_left_seconds, now.lease_owner
    if left is None:
        return "nobody holds its lease"
    if left > 0:
        return f"{owner} holds its lease for {left:.1f} s more"
    whose = f"the lease of {owner}" if owner is not None else "its lease, which was given back,"
    return f"{whose} ended {-left:.1f} s ago"
