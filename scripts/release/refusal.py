"""What ends a release before anything stands in ``dist``."""

from __future__ import annotations


class ReleaseRefused(Exception):
    """The release may not be made; the text says what was found and what to do."""


def refuse(what: str, faults: list[str]) -> None:
    """Raise ``ReleaseRefused`` with every fault on a line of its own, unless there is none."""
    if faults:
        raise ReleaseRefused("\n".join([f"{what}:", *(f"  - {fault}" for fault in faults)]))
