"""Clients that are gone without a word, on a stream where nothing happens: only the kernel can notice."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import httpx2
import pytest

from tailrace.settings import Settings
from tailrace.store.runs import Runs
from tests.hostile.clients import may_vanish, silent_sockets, until_true, vanish
from tests.patience import PATIENCE_SECONDS
from tests.read_support import ServerProcess
from tests.write_support import queued

VANISHED, THERE = 20, 3


@pytest.mark.skipif(
    sys.platform != "linux" or not may_vanish(),
    reason="drops packets by Linux's means, which this kernel leaves to root: run the tests as root",
)
async def test_clients_that_vanish_from_a_silent_stream_are_let_go_within_the_write_bound(
    settings: Callable[..., Settings], runs: Runs
) -> None:
    """Pings are a few bytes and never fill a buffer, so no write is overdue: without ``TCP_USER_TIMEOUT`` the kernel
    would send them again for a quarter of an hour, and the streams stay open as long.  Who is there stays.
    """
    run_id = await queued(runs)
    with ServerProcess(settings(), TAILRACE_WRITE_SECONDS="2", TAILRACE_HEARTBEAT_SECONDS="0.5") as server:
        there = await silent_sockets(server.port, run_id, THERE)
        gone = await silent_sockets(server.port, run_id, VANISHED)
        async with httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as http:

            async def are_open(count: int) -> bool:
                text = (await http.get("/metrics")).text
                found = re.search(r"^tailrace_streams_active (\d+)", text, re.MULTILINE)
                return found is not None and int(found[1]) == count

            await until_true(lambda: are_open(THERE + VANISHED), "all streams are open")
            for each in gone:
                vanish(each)
            await until_true(lambda: are_open(THERE), "those that vanished were let go")
        for each in (*there, *gone):
            each.close()
