"""``tailrace demo``: the main job, on real files, in one command."""

from __future__ import annotations

import sysconfig
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from tailrace.cli.output import Json, run
from tailrace.errors import UsageError
from tailrace.local.early import starting_early
from tailrace.settings import load_settings


def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="Folder of text files; Python's own standard library when left out."),
    ] = None,
    json: Json = False,
) -> None:
    """Digest a folder of text files in a run, and see its stream cut and resumed.

    The stream is cut in the middle and resumed from the last event that arrived; at the end, what arrived is counted.
    """
    chosen = folder if folder is not None else Path(sysconfig.get_path("stdlib"))
    if not chosen.is_dir():
        raise UsageError(f"there is no folder {str(chosen)!r}; name one with text files in it")
    settings = load_settings()
    with starting_early(settings.data_dir) if settings.database_url is None else nullcontext():
        # Here, for it takes as long to import as Postgres takes to start.
        from tailrace.demo.terminal import run_demo  # noqa: PLC0415

        code = run(run_demo(chosen, json_output=json, settings=settings))
    raise typer.Exit(code)
