"""The chaos proxy: what it says it did is what happened to the connection."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from faults.proxy import Link


@asynccontextmanager
async def echo_through_a_link() -> AsyncIterator[tuple[Link, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection through a link to a server that says everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    link = Link("test", server.sockets[0].getsockname()[1])
    await link.open()
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        async with asyncio.timeout(20):
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            yield link, reader, writer
    finally:
        writer.transport.abort()
        await link.close()
        server.close()


@pytest.mark.parametrize("reset", [True, False])
async def test_a_cut_connection_ends_and_is_counted(reset: bool) -> None:
    async with echo_through_a_link() as (link, reader, _):
        assert link.cut(reset=reset) == 1
        try:
            assert await reader.read(100) == b""
        except ConnectionResetError:
            assert reset


async def test_a_stalled_link_holds_what_is_said_and_lets_it_through_later() -> None:
    async with echo_through_a_link() as (link, reader, writer):
        link.stall()
        writer.write(b"again")
        while not link.bytes_held:  # noqa: ASYNC110 - the count has no event
            await asyncio.sleep(0.01)
        link.resume()
        assert await reader.readexactly(5) == b"again"


async def test_a_half_closed_connection_stands_and_carries_nothing() -> None:
    async with echo_through_a_link() as (link, reader, writer):
        assert link.half_close(random.Random(1)) == 1  # noqa: S311 - a test
        writer.write(b"again")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.3)
        assert not reader.at_eof()
