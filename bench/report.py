"""What a measurement is, and how it is shown."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured beside its reference, in turn, in the same run; medians, with the spread of the ratio."""

    name: str
    unit: str
    ours: float
    reference_name: str
    reference: float
    ratio: float
    ratio_min: float
    ratio_max: float


Measure = Callable[[], Coroutine[Any, Any, float]]


async def compare(name: str, unit: str, ours: Measure, reference_name: str, reference: Measure) -> Row:
    """Measure two things in turn, pair by pair, so that a machine that drifts drifts for both."""
    pairs = [(await ours(), await reference()) for _ in range(ROUNDS)]
    ratios = [mine / other for mine, other in pairs]
    return Row(
        name,
        unit,
        statistics.median(mine for mine, _ in pairs),
        reference_name,
        statistics.median(other for _, other in pairs),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
    )


def show(rows: list[Row], versions: dict[str, str], path: Path) -> None:
    """Print the rows and write them as JSON."""
    machine = {"cores": str(os.cpu_count()), "system": platform.platform(), "python": platform.python_version()}
    table = Table("what", "unit", "ours", "reference", "", "ratio", "min to max")
    for row in rows:
        spread = f"{row.ratio_min:.2f} to {row.ratio_max:.2f}"
        table.add_row(
            row.name,
            row.unit,
            f"{row.ours:,.2f}",
            row.reference_name,
            f"{row.reference:,.2f}",
            f"{row.ratio:.2f}",
            spread,
        )
    console = Console(width=150)
    console.print(", ".join(f"{name} {value}" for name, value in (machine | versions).items()))
    console.print(table)
    console.print(f"medians of {ROUNDS} pairs; compare the ratios, for rates drift with the machine")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine | versions, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
