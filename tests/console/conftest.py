"""A log to write by hand, and the console of a server process in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tailrace.bus.local_first import LocalFirst
from tailrace.bus.postgres import PostgresBus
from tailrace.settings import Settings
from tailrace.store.database import Database
from tailrace.store.doorbell import Doorbell
from tailrace.telemetry import Telemetry
from tests.browser_support import host, page
from tests.read_support import ServerProcess

__all__ = ["host", "page"]


@pytest.fixture
def api(settings: Callable[..., Settings]) -> Iterator[ServerProcess]:
    """A process with the role api; the test writes the log."""
    with ServerProcess(settings()) as started:
        yield started


@pytest.fixture
def bus(database: Database) -> LocalFirst:
    """The bus as the process of the outbox has it."""
    return LocalFirst(PostgresBus(Doorbell(database, Telemetry())))
