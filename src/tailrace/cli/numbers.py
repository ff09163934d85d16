"""Whole numbers as options: plain digits within bounds, for ``int()`` takes ``1_000``, ``+5`` and foreign digits."""

from __future__ import annotations

import re
from collections.abc import Callable

import typer

_DIGITS = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z", re.ASCII)


def whole(minimum: int, maximum: int) -> Callable[[str | int], int]:
    """Return a parser for an option's value from ``minimum`` to ``maximum``."""

    def number(text: str | int) -> int:
        # Typer hands the default over as it is.
        if _DIGITS.match(str(text)) and minimum <= (value := int(text)) <= maximum:
            return value
        raise typer.BadParameter(f"must be a whole number from {minimum} to {maximum}, found {str(text)[:40]!r}")

    return number
