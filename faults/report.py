"""What a campaign found, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from faults.campaign import Campaign, Round
from faults.checks import KINDS

COLUMNS = ("class", "injected", "proved", "runs", "events", "deliveries", *KINDS, "recovery p50", "p99", "of")


def summary(campaign: Campaign, *, seed: int, seconds: float, bad_build: str | None) -> dict[str, Any]:
    """Return everything that is worth keeping."""
    names = dict.fromkeys(["none", *(each.name for each in campaign.rounds)])
    return {
        "seed": seed,
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
        "unproved": campaign.unproved,
        "rounds": [{**asdict(each), "recoveries": [round(s, 3) for s in each.recoveries]} for each in campaign.rounds],
    }


def show(found: dict[str, Any]) -> None:
    """Print the table and what is to be known with it."""
    table = Table(*COLUMNS, title=f"seed {found['seed']}, {found['seconds']:.0f} s")
    for row in [*found["classes"], found["total"]]:
        counts = [f"{row[name]:,}" for name in ("injected", "proved", "runs", "events", "deliveries")]
        broken = [str(row["violations"][kind]) for kind in KINDS]
        recovery = ["-" if row[name] is None else f"{row[name]:.2f} s" for name in ("p50", "p99")]
        table.add_row(row["class"], *counts, *broken, *recovery, str(row["samples"]))
    console = Console(width=190)
    console.print(table)
    for name, why in found["skipped"].items():
        console.print(f"skipped: {name}: {why}")
    for name in found["unproved"]:
        console.print(f"NOT PROVED: no fault of the class {name} could be shown to have bitten")


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
