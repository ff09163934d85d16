"""Measures rows: ours and every reference in turn, in an order that turns round.

So a machine that drifts drifts for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from tailrace.bench.place import Place
from tailrace.bench.row import Figures, Measure, Measured, Row

# A measurement that takes longer than this hangs: the longest measures four times for as long as was asked for, beside
# what it takes to begin and end.
BESIDE_MAX_SECONDS = 240.0
PARTS_MAX = 4


async def measure(rows: Sequence[Row], place: Place, *, on_row: Callable[[Row], None]) -> list[Measured]:
    """Measure the rows one after the other; what fails is recorded with its reason, and the others go on."""
    done = []
    for row in rows:
        on_row(row)
        done.append(await measure_row(row, place))
    return done


async def measure_row(row: Row, place: Place) -> Measured:
    """Measure one row in pairs."""
    measured = Measured(row)
    if (why := row.missing()) is not None:
        measured.missing["tailrace"] = why
        return measured
    try:
        async with row.prepare(place) as prepared:
            await _measure_sides(measured, prepared)
    except Exception as error:  # noqa: BLE001 - as for a side
        measured.failed["tailrace"] = _said(error)
    return measured


async def _measure_sides(measured: Measured, place: Place) -> None:
    row = measured.row
    sides: list[tuple[str | None, Measure]] = [(None, row.ours)]
    for reference in row.references:
        if (why := reference.missing()) is not None:
            measured.missing[reference.name] = why
        else:
            sides.append((reference.name, reference.measure))
            measured.references[reference.name] = []
    for turn in range(place.scale.rounds or row.rounds):
        for name, side in sides if turn % 2 == 0 else reversed(sides):
            key = name or "tailrace"
            if key in measured.failed:
                continue
            try:
                figures = await _bounded(side, place)
            except Exception as error:  # noqa: BLE001 - a peer may fail in any way, and the others are still wanted
                measured.failed[key] = _said(error)
            else:
                (measured.ours if name is None else measured.references[name]).append(figures)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:1000]


async def _bounded(side: Measure, place: Place) -> Figures:
    async with asyncio.timeout(BESIDE_MAX_SECONDS + PARTS_MAX * place.scale.seconds):
        return await side(place)
