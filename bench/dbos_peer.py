"""DBOS: ``write_stream`` in workflows, and a workflow of five steps."""

from __future__ import annotations

import asyncio
import time

from bench.peer import answer, needs, plan_on_stdin, say
from tailrace.bench.agents import payload
from tailrace.bench.place import Place, Scale
from tailrace.bench.row import Figures, Reference
from tailrace.bench.runs import at_once

missing = needs("dbos")
WRITERS = 100


async def append(place: Place) -> Figures:
    """Write from 100 workflows, each awaiting every value."""
    return await answer(place, "dbos_peer", what="append", url=place.url, seconds=place.scale.seconds)


async def whole_runs(place: Place) -> Figures:
    """Run workflows of five steps."""
    return await answer(place, "dbos_peer", what="runs", url=place.url, seconds=place.scale.seconds)


async def _work(what: str, url: str, seconds: float) -> dict[str, float]:
    from dbos import DBOS

    DBOS(
        config={
            "name": "bench",
            "system_database_url": url,
            "log_level": "ERROR",
            "sys_db_pool_size": 20,
            "run_migrations": True,
        }
    )

    @DBOS.step()
    async def nothing() -> None:
        pass

    @DBOS.workflow()
    async def five_steps() -> None:
        for _ in range(5):
            await nothing()

    @DBOS.workflow()
    async def writing(until: float) -> int:
        count = 0
        while time.time() < until:
            await DBOS.write_stream_async("events", payload())
            count += 1
        return count

    DBOS.launch()
    try:
        if what == "runs":
            from pathlib import Path

            return await at_once(five_steps, Place(url, Path(), Scale(seconds=seconds)))
        begin = time.time()
        counts = await asyncio.gather(*(writing(begin + seconds) for _ in range(WRITERS)))
        return {"rate": sum(counts) / (time.time() - begin)}
    finally:
        DBOS.destroy()


APPEND = Reference("DBOS write_stream", append, missing)
RUNS = Reference("DBOS", whole_runs, missing)

if __name__ == "__main__":
    say(asyncio.run(_work(**plan_on_stdin())))
