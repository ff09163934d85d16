"""Writes the generated pages of ``docs/reference``; with ``--check`` it only says which are not current."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from scripts.reference import commands, endpoints, errors, logs, metrics, settings, states
from scripts.reference.page import Wordless
from tailrace.model.event import event_json_schema

FOLDER = Path(__file__).parent.parent.parent / "docs" / "reference"


def pages() -> dict[Path, str]:
    """Return the text of every generated page by its path."""
    return {
        FOLDER / "commands.md": commands.page(),
        FOLDER / "endpoints.md": endpoints.page(),
        FOLDER / "errors.md": errors.page(),
        FOLDER / "logs.md": logs.page(),
        FOLDER / "metrics.md": metrics.page(),
        FOLDER / "run-states.md": states.page(),
        FOLDER / "settings.md": settings.page(),
        FOLDER / "event.schema.json": json.dumps(event_json_schema(), indent=2) + "\n",
    }


def main() -> int:
    """Write the pages, or check them; return the exit code."""
    try:
        written = pages()
    except Wordless as missing:
        print(f"{missing}: say what it is, where it is defined")  # noqa: T201
        return 1
    stale = {path: text for path, text in written.items() if not path.exists() or path.read_text("utf-8") != text}
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(FOLDER.parent.parent)} is not current; run `make docs`")  # noqa: T201
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in stale.items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
