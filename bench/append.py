"""Durable append: the library against the bare statement, and the two drivers on that statement."""

from __future__ import annotations

import asyncio
import re
import time
from functools import partial

import asyncpg
import psycopg

from bench.tables import DATA, RUNS, batch, columns, fresh_runs
from tailrace.model import draft
from tailrace.store.events import Events
from tailrace.store.queries import query
from tailrace.telemetry import Telemetry
from tailrace.worker.duties import Duty, perform
from tailrace.write.appender import LANES, Appender
from tailrace.write.line import RunLog

EVENTS_A_RUN = 200
PAYLOAD = {"done": 3, "of": 9, "message": "x" * 60}


async def by_library(url: str) -> float:
    """Return events per second of ``RUNS`` tasks that each await every event through the appender."""
    async with fresh_runs(url) as (database, ids):
        telemetry = Telemetry()
        appender = Appender(Events(database), telemetry, on_committed=lambda _: None)
        flushing = [
            asyncio.create_task(
                perform(Duty("flush", partial(appender.flush_once, lane), 60, appender.work), telemetry)
            )
            for lane in range(LANES)
        ]

        async def emit_all(run_id: str) -> None:
            log = RunLog(run_id, epoch=1, last_seq=1)
            for _ in range(EVENTS_A_RUN):
                event = draft.custom("Progress", PAYLOAD, time.time_ns() // 1_000_000, max_bytes=65536)
                await appender.append(log, [event])

        begin = time.perf_counter()
        await asyncio.gather(*(emit_all(run_id) for run_id in ids))
        seconds = time.perf_counter() - begin
        for task in flushing:
            task.cancel()
    return RUNS * EVENTS_A_RUN / seconds


async def by_statement(url: str) -> float:
    """Return events per second of the bare statement, one event of every run at a time, arguments made beforehand."""
    async with fresh_runs(url) as (database, ids):
        arguments = [columns(batch(ids, 2 + turn, 1)) for turn in range(EVENTS_A_RUN)]
        async with database.connection() as connection:
            statement = await connection.prepare(query("append", database.schema))
            begin = time.perf_counter()
            for each in arguments:
                await statement.fetch(*each)
            seconds = time.perf_counter() - begin
    return RUNS * EVENTS_A_RUN / seconds


async def driver_batches_asyncpg(url: str) -> float:
    """Return microseconds of client CPU an event, for the append statement through asyncpg."""
    return await _asyncpg(url, events_a_run=10, turns=20)


async def driver_batches_psycopg(url: str) -> float:
    """Return the same through psycopg, with binary parameters and a prepared statement."""
    return await _psycopg(url, events_a_run=10, turns=20)


async def _asyncpg(url: str, *, events_a_run: int, turns: int) -> float:
    async with fresh_runs(url) as (database, ids):
        arguments = [columns(batch(ids, 2 + turn * events_a_run, events_a_run)) for turn in range(turns)]
        async with database.connection() as connection:
            statement = await connection.prepare(query("append", database.schema))
            begin = time.process_time()
            for each in arguments:
                await statement.fetch(*each)
            seconds = time.process_time() - begin
    return seconds * 1e6 / (RUNS * events_a_run * turns)


async def _psycopg(url: str, *, events_a_run: int, turns: int) -> float:
    async with fresh_runs(url) as (database, ids):
        arguments = [columns(batch(ids, 2 + turn * events_a_run, events_a_run)) for turn in range(turns)]
        # psycopg numbers no parameters; append.sql uses each once and in order.
        text = re.sub(r"\$\d+", "%b", re.sub(r"--.*", "", query("append", database.schema)))
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            cursor = connection.cursor(binary=True)
            begin = time.process_time()
            for each in arguments:
                await cursor.execute(text.encode(), each, prepare=True)
                await cursor.fetchall()
            seconds = time.process_time() - begin
    return seconds * 1e6 / (RUNS * events_a_run * turns)


async def driver_small_asyncpg(url: str) -> float:
    """Return microseconds of client CPU for a prepared query of one row, through asyncpg."""
    connection = await asyncpg.connect(url)
    statement = await connection.prepare("select $1::text, $2::bigint")
    begin = time.process_time()
    for _ in range(3000):
        await statement.fetch(DATA, 1)
    seconds = time.process_time() - begin
    await connection.close()
    return seconds * 1e6 / 3000


async def driver_small_psycopg(url: str) -> float:
    """Return the same through psycopg."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = connection.cursor(binary=True)
        begin = time.process_time()
        for _ in range(3000):
            await cursor.execute("select %b::text, %b::bigint", (DATA, 1), prepare=True)
            await cursor.fetchall()
        seconds = time.process_time() - begin
    return seconds * 1e6 / 3000
