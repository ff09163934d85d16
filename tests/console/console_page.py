"""The console in a real browser, as somebody sees and uses it; every wait is for something that is to be seen."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from playwright.async_api import ConsoleMessage, Error, Locator, Page, TimeoutError, expect  # noqa: A004 - its own

from tests.patience import PATIENCE_MS

expect.set_options(timeout=PATIENCE_MS)
SEQS = "[...document.querySelectorAll('.log li')].map((item) => Number(item.dataset.seq))"
# Notes every seq that is ever put into the list of events, in order, and how many stood there at most.
WATCH = """
window.put = []; window.most = 0;
const watch = () => {
    const list = document.querySelector('.log ol');
    if (!list || list.dataset.watched) return;
    list.dataset.watched = 'yes';
    const note = () => {
        window.most = Math.max(window.most, list.childElementCount);
    };
    for (const item of list.children) window.put.push(Number(item.dataset.seq));
    new MutationObserver((changes) => {
        for (const { addedNodes } of changes) for (const item of addedNodes) window.put.push(Number(item.dataset.seq));
        note();
    }).observe(list, { childList: true });
};
new MutationObserver(watch).observe(document, { childList: true, subtree: true });
"""

HIDE = """(hidden) => {
    Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
}"""


async def stop_clock(page: Page) -> None:
    """Let the clock of what is opened from now on stand still, but for ``page.clock.run_for``."""
    await page.clock.install()
    # It can be stopped in its future alone, and goes on until then.
    await page.clock.pause_at(datetime.now(UTC) + timedelta(hours=1))


class Console:
    """The page at ``url``; ``complaints`` are what the browser's console had to say against it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = f"{url}/console"
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._note)
        page.on("pageerror", self._note_error)

    async def open(self, fragment: str = "") -> None:
        await self.page.add_init_script(WATCH)
        await self.page.goto(f"{self.url}{fragment}")

    def find(self, selector: str, **options: Any) -> Locator:
        return self.page.locator(selector, **options)

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    async def says(self, selector: str, text: str) -> None:
        """Wait until what is there contains the text."""
        await expect(self.find(selector)).to_contain_text(text)

    async def ids(self) -> list[str]:
        """Return the runs of the list, top to bottom."""
        return await self.find(".runs td.id a").all_text_contents()

    async def draws(self, seqs: Iterable[int]) -> None:
        """Wait until the events that stand on the page have these seqs: they are drawn a frame after they came."""
        wanted = list(seqs)
        try:
            await self.until(f"(wanted) => String({SEQS}) === String(wanted)", wanted)
        except TimeoutError:
            assert await self.page.evaluate(SEQS) == wanted
            raise

    async def until(self, script: str, argument: object = None) -> None:
        """Wait until a JavaScript function of the page says true."""
        await self.page.wait_for_function(script, arg=argument, timeout=PATIENCE_MS)

    async def hide(self, *, hidden: bool) -> None:
        """Let the page believe that its tab was hidden, or is seen again."""
        await self.page.evaluate(HIDE, hidden)

    async def give_key(self, key: str) -> None:
        """Type a key into the dialog, which must be asked for, and use it."""
        await expect(self.find("#key")).to_be_visible()
        await self.find("#key-field").fill(key)
        await self.button("Use this key").click()

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _note_error(self, error: Error) -> None:
        self.complaints.append(str(error))
