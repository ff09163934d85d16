"""The states of a run, from the table that the code and the database go by."""

from __future__ import annotations

from scripts.reference.page import NOTE
from tailrace.model.run import TERMINAL_STATES, TRANSITIONS


def page() -> str:
    """Return the page."""
    arrows = [f"    {state} --> {following}" for state, after in TRANSITIONS.items() for following in sorted(after)]
    ends = [f"    {state} --> [*]" for state in sorted(TERMINAL_STATES)]
    lines = ["stateDiagram-v2", "    [*] --> queued", *arrows, *ends]
    return f"{NOTE}# The states of a run\n\n```mermaid\n" + "\n".join(lines) + "\n```\n"
