"""What tests with a real browser share: a page of a headless Chromium, and an application that mounts Tailrace."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright

from tailrace.settings import Settings
from tests.patience import PATIENCE_MS
from tests.read_support import ServerProcess

ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
HOST = Path(__file__).parent / "browser" / "host.py"


class HostProcess(ServerProcess):
    """A FastAPI application of a user that mounts Tailrace and serves a page beside it, in a process of its own."""

    def command(self) -> list[str]:
        return [sys.executable, str(HOST), str(self.port)]


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    executable = shutil.which("chromium") or shutil.which("chromium", path="/usr/bin")
    if executable is None:
        pytest.skip("no chromium on PATH or in /usr/bin: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=ARGUMENTS, timeout=PATIENCE_MS)
        try:
            made = await browser.new_page()
            made.set_default_timeout(PATIENCE_MS)
            yield made
        finally:
            await browser.close()


@pytest.fixture
def host(settings: Callable[..., Settings]) -> Iterator[HostProcess]:
    with HostProcess(settings()) as started:
        yield started
