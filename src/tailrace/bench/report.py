"""What was measured, as a table for people, a JSON document for programs, and Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tailrace.bench.row import Figure, Goal, Measured, Spread, number

HEADINGS = ("what", "unit", "ours", "smallest to largest", "reference", "its", "ratio", "smallest to largest", "goal")
WIDTH = 200


def document(measured: Sequence[Measured], machine: Mapping[str, str], versions: Mapping[str, str]) -> dict[str, Any]:
    """Return everything as one JSON document."""
    return {"machine": dict(machine), "versions": dict(versions), "rows": [_row(each) for each in measured]}


def show(
    console: Console, measured: Sequence[Measured], machine: Mapping[str, str], versions: Mapping[str, str]
) -> None:
    """Print the table, and below it what was not measured and why."""
    table = Table(*HEADINGS, title="Tailrace, measured")
    for row in measured:
        table.add_section()
        for cells in lines(row):
            table.add_row(*cells)
    console.print(table)
    for row in measured:
        for name, why in {**row.missing, **row.failed}.items():
            console.print(f"{row.row.name}: {name} was not measured: {why}", markup=False)
    console.print(", ".join(f"{name} {value}" for name, value in {**machine, **versions}.items()), markup=False)
    console.print("Medians of the rounds, pair by pair. Compare ratios: rates drift with the machine.")


def markdown(measured: Sequence[Measured]) -> str:
    """Return the table for docs/performance.md."""
    rows = [" | ".join(cells) for each in measured for cells in lines(each)]
    head = f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}\n"
    return head + "\n".join(f"| {row} |" for row in rows) + "\n"


def lines(measured: Measured) -> list[tuple[str, ...]]:
    """Return the table's lines of one row: a figure each, beside every reference that gives it too."""
    found: list[tuple[str, ...]] = []
    for figure in measured.row.figures:
        ours = measured.spread(figure.key)
        if ours is None:
            continue
        title = f"… {figure.title}" if found else f"{measured.row.title}: {figure.title}"
        cells = (title, figure.unit, number(ours.median), _range(ours))
        beside = [name for name in measured.references if measured.spread(figure.key, name) is not None]
        goals = [goal for goal in measured.row.goals if goal.figure == figure.key]
        plain = " ".join(_verdict(measured, goal) for goal in goals if goal.than not in beside)
        if not beside:
            found.append((*cells, "", "", "", "", plain))
        for place, name in enumerate(beside):
            verdicts = [_verdict(measured, goal) for goal in goals if goal.than == name]
            if place == 0 and plain:
                verdicts.insert(0, plain)
            found.append(
                (*(cells if place == 0 else ("", "", "", "")), *_beside(measured, figure, name), "; ".join(verdicts))
            )
    return found


def _beside(measured: Measured, figure: Figure, name: str) -> tuple[str, str, str, str]:
    its, ratio = measured.spread(figure.key, name), measured.ratio(figure.key, name)
    shown = (f"{ratio.median:.2f}", f"{ratio.smallest:.2f} to {ratio.largest:.2f}") if ratio is not None else ("", "")
    return (name, number(its.median) if its is not None else "", *shown)


def _verdict(measured: Measured, goal: Goal) -> str:
    reached = measured.reached(goal)
    verdict = {True: "reached", False: "NOT reached", None: "not told here"}[reached]
    return f"{goal.text(measured.row.figures)}: {verdict}"


def _row(measured: Measured) -> dict[str, Any]:
    row = measured.row
    return {
        "name": row.name,
        "title": row.title,
        "rounds": len(measured.ours),
        "figures": [_figure(measured, figure) for figure in row.figures],
        "goals": [{"text": goal.text(row.figures), "reached": measured.reached(goal)} for goal in row.goals],
        "missing": measured.missing,
        "failed": measured.failed,
    }


def _figure(measured: Measured, figure: Figure) -> dict[str, Any]:
    return {
        "key": figure.key,
        "title": figure.title,
        "unit": figure.unit,
        "better": figure.better,
        "ours": _spread(measured.spread(figure.key)),
        "references": [
            {"name": name, "its": _spread(its), "ratio": _spread(measured.ratio(figure.key, name))}
            for name in measured.references
            if (its := measured.spread(figure.key, name)) is not None
        ],
    }


def _spread(spread: Spread | None) -> dict[str, float] | None:
    if spread is None:
        return None
    return {"median": spread.median, "smallest": spread.smallest, "largest": spread.largest}


def _range(spread: Spread) -> str:
    return f"{number(spread.smallest)} to {number(spread.largest)}"
