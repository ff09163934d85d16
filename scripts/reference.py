"""Writes the generated pages of ``docs/reference``; with ``--check`` it only says which are not current."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tailrace.exporters.prometheus import PrometheusExporter
from tailrace.model.event import event_json_schema
from tailrace.model.run import TERMINAL_STATES, TRANSITIONS
from tailrace.settings import describe_settings

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
NOTE = "<!-- Written by `make docs` from the code; do not edit. -->\n\n"


def settings_page() -> str:
    """Return the table of settings."""
    rows = [
        f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |"
        for name, default, meaning in describe_settings()
    ]
    return (
        f"{NOTE}# Settings\n\nFrom the environment, or from a `.env` file in the working folder. An unknown name that "
        "begins with `TAILRACE_` and a value that is not allowed are errors at start.\n\n"
        "| setting | default | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def metrics_page() -> str:
    """Return the table of metrics."""
    rows = [
        f"| `{metric.name}{'_total' if metric.type == 'counter' else ''}` | {metric.type} | {metric.documentation} |"
        for metric in PrometheusExporter().registry.collect()
    ]
    return (
        f"{NOTE}# Metrics\n\nServed at `/metrics` by a process of any role. No run id is ever a label. With "
        "`tailrace serve --processes N` each series also bears the `process` that counted it "
        "([processes](processes.md)).\n\n"
        "| metric | type | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def states_page() -> str:
    """Return the diagram of a run's states."""
    arrows = [f"    {state} --> {following}" for state, after in TRANSITIONS.items() for following in sorted(after)]
    ends = [f"    {state} --> [*]" for state in sorted(TERMINAL_STATES)]
    lines = ["stateDiagram-v2", "    [*] --> queued", *arrows, *ends]
    return f"{NOTE}# The states of a run\n\n```mermaid\n" + "\n".join(lines) + "\n```\n"


def pages() -> dict[Path, str]:
    """Return the text of every generated page by its path."""
    return {
        FOLDER / "settings.md": settings_page(),
        FOLDER / "metrics.md": metrics_page(),
        FOLDER / "run-states.md": states_page(),
        FOLDER / "event.schema.json": json.dumps(event_json_schema(), indent=2) + "\n",
    }


def main() -> int:
    """Write the pages, or check them; return the exit code."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(FOLDER.parent.parent)} is not current; run `make docs`")  # noqa: T201
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in stale:
        path.write_text(pages()[path], "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
