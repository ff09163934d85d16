"""Every row by name, in the order of the table; and one way through all of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tailrace.bench import append, backfill, delivery, fanout, first_event, growth, hot, idle, pipeline, runs
from tailrace.bench.place import Place, Scale
from tailrace.bench.row import Measured, Row
from tailrace.bench.runner import measure
from tailrace.errors import UsageError

ROWS: tuple[Row, ...] = (
    append.ROW,
    pipeline.ROW,
    delivery.SLOW,
    delivery.FAST,
    fanout.SLOW,
    fanout.FAST,
    backfill.ROW,
    idle.ROW,
    runs.LIBRARY,
    runs.HTTP,
    hot.ROW,
    growth.ROW,
    first_event.ROW,
)


def chosen(names: Sequence[str], rows: Sequence[Row] = ROWS) -> list[Row]:
    """Return the rows with these names, all when there are none; raise ``UsageError`` for a name that is not there."""
    known = {row.name: row for row in rows}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"there is no row {unknown[0]!r}; the rows are {', '.join(known)}")
    return [row for row in rows if not names or row.name in names]


async def bench(rows: Sequence[Row], url: str, scale: Scale, *, on_row: Callable[[Row], None]) -> list[Measured]:
    """Measure rows on the database at ``url``, in schemas of their own, and leave nothing behind."""
    folder = _folder()
    try:
        return await measure(rows, Place(url, folder, scale), on_row=on_row)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tailrace-bench-"))
    # The embedded server of a row runs as another account when root measures.
    folder.chmod(0o755)
    return folder
