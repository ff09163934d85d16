"""A log to write by hand, and the console of a server process in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tailrace.settings import Settings
from tests.browser_support import host, page
from tests.read_support import ServerProcess

__all__ = ["host", "page"]


@pytest.fixture
def api(settings: Callable[..., Settings]) -> Iterator[ServerProcess]:
    """A process with the role api; the test writes the log."""
    with ServerProcess(settings()) as started:
        yield started
