"""Every setting, from the one definition."""

from __future__ import annotations

from scripts.reference.page import NOTE, table, words
from tailrace.settings import describe_settings


def page() -> str:
    """Return the page."""
    rows = [
        (f"`{name}`", f"`{default}`" if default else "", words(meaning, name))
        for name, default, meaning in describe_settings()
    ]
    return (
        f"{NOTE}# Settings\n\nFrom the environment, or from a `.env` file in the working folder. An unknown name that "
        "begins with `TAILRACE_` and a value that is not allowed are errors at start.\n\n"
    ) + table(("setting", "default", "meaning"), rows)
