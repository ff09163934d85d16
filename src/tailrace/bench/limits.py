"""What Postgres gives with nothing else in between: the references of the rows, as bare as they can be written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import asyncpg

from tailrace.bench.children import PostgresCpu
from tailrace.bench.place import Place
from tailrace.bench.row import Figures
from tailrace.bench.statements import statement
from tailrace.store.database import Connection

RUNS = 100
# Two writers keep Postgres busy while the answer of the other's batch is on its way; a third gains nothing on 2 cores.
WRITERS = 2
DATA = '{"t":1790000000000000000,"x":"' + "x" * 24 + '"}'


async def group_commit(place: Place) -> Figures:
    """Append for 100 runs that each await every event: insert, seq check and outbox cursor in one statement a batch."""
    async with place.fresh() as fresh, fresh.database() as database:
        async with database.connection() as connection:
            await connection.execute(statement("limit_tables", fresh.schema))
            made = await connection.fetch(statement("limit_runs", fresh.schema), RUNS)
        ids = [row["id"] for row in made]
        cpu = await PostgresCpu.find(fresh.url)
        queues = [_Queue() for _ in range(WRITERS)]
        connections = [await asyncpg.connect(fresh.url) for _ in queues]
        writing = [
            asyncio.create_task(queue.write(connection, statement("limit_append", fresh.schema)))
            for queue, connection in zip(queues, connections, strict=True)
        ]
        cpu_before, own_before, begin = cpu.seconds(), time.process_time(), time.perf_counter()
        until = begin + fresh.scale.seconds
        counts = await asyncio.gather(
            *(_emit_on(run_id, queues[number % WRITERS], until) for number, run_id in enumerate(ids))
        )
        seconds = time.perf_counter() - begin
        spent = time.process_time() - own_before
        events = sum(counts)
        for task in writing:
            task.cancel()
        await asyncio.gather(*writing, return_exceptions=True)
        figures = {"rate": events / seconds}
        if (cpu_after := cpu.seconds()) is not None and cpu_before is not None:
            figures["cpu"] = (spent + cpu_after - cpu_before) * 1e6 / events
        for connection in connections:
            await connection.close()
        return figures


class _Queue:
    """What waits for one writer, and the writer."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, int, asyncio.Future[None]]] = []
        self.work = asyncio.Event()

    async def write(self, connection: asyncpg.Connection[asyncpg.Record], text: str) -> None:
        """Write what waits, for ever."""
        prepared = await connection.prepare(text)
        while True:
            await self.work.wait()
            self.work.clear()
            batch, self.waiting = self.waiting, []
            ids, seqs, futures = zip(*batch, strict=True)
            now = time.time_ns() // 1_000_000
            await prepared.fetch(ids, seqs, seqs, ids, seqs, [now] * len(ids), [DATA] * len(ids))
            for done in futures:
                done.set_result(None)


async def _emit_on(run_id: str, queue: _Queue, until: float) -> int:
    loop, seq = asyncio.get_running_loop(), 1
    while time.perf_counter() < until:
        seq += 1
        done: asyncio.Future[None] = loop.create_future()
        queue.waiting.append((run_id, seq, done))
        queue.work.set()
        await done
    return seq - 1


async def copy_out(connection: Connection, run_id: str, schema: str) -> Sequence[int]:
    """Copy a run's events out, and return how many rows and bytes came."""
    size = 0

    async def count(data: bytes) -> None:
        nonlocal size
        size += len(data)

    said = await connection.copy_from_query(statement("copy_log", schema), run_id, output=count)
    return int(said.split()[1]), size
