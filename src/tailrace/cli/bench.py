"""``tailrace bench``: what Tailrace gives on this machine and this database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailrace.cli.numbers import whole
from tailrace.cli.output import Json, print_json, run

SECONDS_MAX = 600


def bench(
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="ROW", help="Measure this row alone; may be repeated. A name that is no row lists them."
        ),
    ] = None,
    seconds: Annotated[
        int,
        typer.Option(
            "--seconds", parser=whole(1, SECONDS_MAX), metavar="N", help="Seconds that one measurement takes."
        ),
    ] = 5,
    short: Annotated[
        bool,
        typer.Option("--short", help="Run every row for a moment, to see that it works; its figures mean nothing."),
    ] = False,
    chart: Annotated[
        Path | None, typer.Option("--chart", metavar="FILE", help="Also draw the figures into this file, as SVG.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure Tailrace on this machine and this database.

    The database is the one that the settings name, else the embedded one. Everything is written to schemas of its own,
    which are removed; what the database holds is not touched, but it is kept busy. Exit 1 when a row could not be
    measured.
    """
    # Here, for the other commands do not need it.
    from tailrace.bench.command import run_bench  # noqa: PLC0415

    ok = run(
        run_bench(only or [], seconds=float(seconds), short=short, chart=chart, print_json=print_json if json else None)
    )
    raise typer.Exit(0 if ok else 1)
