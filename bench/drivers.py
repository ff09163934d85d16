"""The two drivers on our append statement and on a small query, and the bare append statement itself."""

from __future__ import annotations

import re
import time

import asyncpg
import psycopg

from bench.tables import DATA, RUNS, batch, fresh_runs
from tailrace.bench.place import Place
from tailrace.bench.row import Figure, Figures, Reference, Row
from tailrace.store.events import append_arguments
from tailrace.store.queries import query

EVENTS_A_RUN = 200


async def by_statement(place: Place) -> Figures:
    """Append one event of every run at a time by our statement, one connection, arguments made beforehand."""
    async with fresh_runs(place.url) as (database, ids):
        arguments = [append_arguments(batch(ids, 2 + turn, 1)) for turn in range(EVENTS_A_RUN)]
        async with database.connection() as connection:
            statement = await connection.prepare(query("append", database.schema))
            begin = time.perf_counter()
            for each in arguments:
                await statement.fetch(*each)
            seconds = time.perf_counter() - begin
    return {"rate": RUNS * EVENTS_A_RUN / seconds}


async def batches_asyncpg(place: Place) -> Figures:
    """Return microseconds of client CPU an event, for the append statement through asyncpg."""
    return await _asyncpg(place.url, events_a_run=10, turns=20)


async def batches_psycopg(place: Place) -> Figures:
    """Return the same through psycopg, with binary parameters and a prepared statement."""
    return await _psycopg(place.url, events_a_run=10, turns=20)


async def _asyncpg(url: str, *, events_a_run: int, turns: int) -> Figures:
    async with fresh_runs(url) as (database, ids):
        arguments = [append_arguments(batch(ids, 2 + turn * events_a_run, events_a_run)) for turn in range(turns)]
        async with database.connection() as connection:
            statement = await connection.prepare(query("append", database.schema))
            begin = time.process_time()
            for each in arguments:
                await statement.fetch(*each)
            seconds = time.process_time() - begin
    return {"cpu": seconds * 1e6 / (RUNS * events_a_run * turns)}


async def _psycopg(url: str, *, events_a_run: int, turns: int) -> Figures:
    async with fresh_runs(url) as (database, ids):
        arguments = [append_arguments(batch(ids, 2 + turn * events_a_run, events_a_run)) for turn in range(turns)]
        # psycopg numbers no parameters; append.sql uses each once and in order.
        text = re.sub(r"\$\d+", "%b", re.sub(r"--.*", "", query("append", database.schema)))
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            cursor = connection.cursor(binary=True)
            begin = time.process_time()
            for each in arguments:
                await cursor.execute(text.encode(), each, prepare=True)
                await cursor.fetchall()
            seconds = time.process_time() - begin
    return {"cpu": seconds * 1e6 / (RUNS * events_a_run * turns)}


async def small_asyncpg(place: Place) -> Figures:
    """Return microseconds of client CPU for a prepared query of one row, through asyncpg."""
    connection = await asyncpg.connect(place.url)
    statement = await connection.prepare("select $1::text, $2::bigint")
    begin = time.process_time()
    for _ in range(3000):
        await statement.fetch(DATA, 1)
    seconds = time.process_time() - begin
    await connection.close()
    return {"cpu": seconds * 1e6 / 3000}


async def small_psycopg(place: Place) -> Figures:
    """Return the same through psycopg."""
    async with await psycopg.AsyncConnection.connect(place.url, autocommit=True) as connection:
        cursor = connection.cursor(binary=True)
        begin = time.process_time()
        for _ in range(3000):
            await cursor.execute("select %b::text, %b::bigint", (DATA, 1), prepare=True)
            await cursor.fetchall()
        seconds = time.process_time() - begin
    return {"cpu": seconds * 1e6 / 3000}


STATEMENT = Reference("our statement alone, one connection", by_statement)
ROWS = (
    Row(
        name="driver-batches",
        title="Driver: append of 1,000 events, asyncpg beside psycopg",
        figures=(Figure("cpu", "CPU of the client", "µs per event"),),
        ours=batches_asyncpg,
        name_of_ours="asyncpg",
        references=(Reference("psycopg", batches_psycopg),),
    ),
    Row(
        name="driver-small",
        title="Driver: one small query, asyncpg beside psycopg",
        figures=(Figure("cpu", "CPU of the client", "µs"),),
        ours=small_asyncpg,
        name_of_ours="asyncpg",
        references=(Reference("psycopg", small_psycopg),),
    ),
)
