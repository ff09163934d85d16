"""What a campaign found, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from faults.campaign import Campaign, Round
from faults.checks import KINDS, Kind
from faults.schedule import TRIES_MAX

# Kinds of violations with a column of their own; the others share one.
SHOWN: tuple[tuple[Kind, str], ...] = (
    ("lost", "lost"), ("duplicated", "dupl."), ("out-of-order", "order"), ("stuck", "stuck"),
)  # fmt: skip
COLUMNS = (
    "class", "proved", "runs", "events", "deliveries", *(title for _, title in SHOWN), "other",
    "p50", "p99", "of",
)  # fmt: skip


WIDTH = 132


def summary(campaign: Campaign, *, seed: int, bus: str, seconds: float, bad_build: str | None) -> dict[str, Any]:
    """Return everything that is worth keeping."""
    names = dict.fromkeys(["none", *(each.name for each in campaign.rounds)])
    return {
        "seed": seed,
        "bus": bus,
        "seconds": round(seconds, 1),
        "badBuild": bad_build,
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "classes": [_class(name, [each for each in campaign.rounds if each.name == name]) for name in names],
        "total": _class("all", campaign.rounds),
        "skipped": campaign.skipped,
        "unproved": campaign.schedule.unproved,
        "unreached": campaign.schedule.unreached,
        "graceRounds": campaign.grace_rounds,
        "rounds": [{**asdict(each), "recoveries": [round(s, 3) for s in each.recoveries]} for each in campaign.rounds],
    }


def show(found: dict[str, Any]) -> None:
    """Print the table and what is to be known with it."""
    table = Table(
        *COLUMNS,
        title=f"seed {found['seed']}, bus {found['bus']}, {found['seconds']:.0f} s",
        box=SIMPLE,
        pad_edge=False,
        caption="p50 and p99: recovery in seconds, of so many clients",
    )
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column is table.columns[0] else "right"
    for row in [*found["classes"], found["total"]]:
        proved = f"{row['proved']}/{row['injected']}" if row["injected"] else "-"
        counts = [f"{row[name]:,}" for name in ("runs", "events", "deliveries")]
        violations = row["violations"]
        broken = [violations[kind] for kind, _ in SHOWN]
        recovery = ["-" if row[name] is None else f"{row[name]:.2f}" for name in ("p50", "p99")]
        others = sum(violations.values()) - sum(broken)
        table.add_row(row["class"], proved, *counts, *map(str, [*broken, others]), *recovery, str(row["samples"]))
    console = Console(width=WIDTH, highlight=False)
    console.print(table)
    for name, why in found["skipped"].items():
        console.print(f"skipped: {name}: {why}")
    if found["graceRounds"]:
        console.print(f"when the time was over, {found['graceRounds']} rounds of grace followed for classes unproved")
    for name in found["unreached"]:
        console.print(f"no time: {name}: this machine was too slow to prove it; give more with MINUTES=…")
    for name in found["unproved"]:
        console.print(f"NOT PROVED: {name}: it was tried {TRIES_MAX} times, and none could be shown to have bitten")
    console.print(verdict(found))


def verdict(found: dict[str, Any]) -> str:
    """Return in one line whether every promise was kept and what was proved."""
    broken = sum(found["total"]["violations"].values())
    proved = sum(bool(row["proved"]) for row in found["classes"])
    wanted = proved + len(found["unproved"]) + len(found["unreached"])
    word = "FAILED" if broken or found["unproved"] else "passed"
    return f"{word}: {broken} violations; {proved} of {wanted} classes proved to bite; {len(found['skipped'])} skipped"


def write(found: dict[str, Any], path: Path) -> None:
    """Write it as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n")


def _class(name: str, rounds: Sequence[Round]) -> dict[str, Any]:
    recoveries = sorted(seconds for each in rounds for seconds in each.recoveries)
    return {
        "class": name,
        "injected": sum(each.name != "none" for each in rounds),
        "proved": sum(each.proof is not None and each.name != "none" for each in rounds),
        "runs": sum(each.runs for each in rounds),
        "events": sum(each.events for each in rounds),
        "deliveries": sum(each.deliveries for each in rounds),
        "acknowledged": sum(each.acknowledged for each in rounds),
        "reconnects": sum(each.reconnects for each in rounds),
        "violations": {kind: sum(v.kind == kind for each in rounds for v in each.violations) for kind in KINDS},
        "p50": _quantile(recoveries, 0.5),
        "p99": _quantile(recoveries, 0.99),
        "samples": len(recoveries),
    }


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None
