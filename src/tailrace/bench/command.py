"""What ``tailrace bench`` does: our rows with the raw limits of Postgres beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tailrace.bench.catalogue import bench, chosen
from tailrace.bench.chart import chart as draw
from tailrace.bench.machine import machine, versions
from tailrace.bench.place import SHORT, Scale
from tailrace.bench.report import WIDTH, document, show
from tailrace.bench.row import Row
from tailrace.errors import UsageError
from tailrace.opening import open_server
from tailrace.settings import load_settings


async def run_bench(
    names: Sequence[str],
    *,
    seconds: float,
    short: bool,
    chart: Path | None,
    print_json: Callable[[object], None] | None,
) -> bool:
    """Measure, print, and return whether every row could be measured.

    :param names: of the rows; all when there are none.
    :param print_json: prints the one JSON document instead of the table.
    :raises UsageError: there is no such row.
    :raises TailraceError: the database cannot be had.
    """
    rows = [_alone(row) for row in chosen(names)]
    scale = SHORT if short else Scale(seconds=seconds)
    console = Console(stderr=True, highlight=False)
    settings = load_settings()
    here = machine()
    async with open_server(settings) as url:
        found = await versions(url)
        measured = await bench(
            rows, url, scale, on_row=lambda row: console.print(f"{row.name}: {row.title}", markup=False)
        )
    if print_json is not None:
        print_json(document(measured, here, found))
    else:
        show(Console(highlight=False, width=WIDTH), measured, here, found)
    if chart is not None:
        _write(chart, draw(measured, caption(here, found)))
    return not any("tailrace" in each.failed for each in measured)


def _write(chart: Path, text: str) -> None:
    try:
        chart.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"--chart {chart}: {error.strerror}") from error


def caption(here: dict[str, str], found: dict[str, str]) -> str:
    """Return the line above the chart."""
    return f"{here['processor']}, {here['cores']} cores, {here['kernel']}, Postgres {found['postgres']}"


def _alone(row: Row) -> Row:
    """Leave out the goals that name a peer, for none is measured here."""
    beside = {reference.name for reference in row.references}
    return replace(row, goals=tuple(goal for goal in row.goals if goal.than is None or goal.than in beside))
