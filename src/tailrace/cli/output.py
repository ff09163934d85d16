"""What the commands share: running a coroutine, printing JSON, printing a table."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any, TypeVar

import orjson
import typer
import uvloop

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(_tell)
        return runner.run(main)


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # A command that is interrupted while it reads from our own API's Unix socket: anyio's reader then answers a future
    # that was cancelled in the same turn of the loop, which harms nothing and would print a traceback.
    if not isinstance(context.get("exception"), asyncio.InvalidStateError):
        loop.default_exception_handler(context)


def print_json(document: object) -> None:
    """Print one JSON document on one line of stdout."""
    typer.echo(orjson.dumps(document).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows under their headings, or ``empty`` when there is none."""
    if not rows:
        typer.echo(empty)
        return
    lines = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for line in lines:
        # Never cut, whatever the terminal's width: an id that is cut can be copied nowhere.
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
