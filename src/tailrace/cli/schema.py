"""``tailrace schema``: the event's JSON Schema."""

from __future__ import annotations

import json

import typer

from tailrace.model.event import event_json_schema


def schema() -> None:
    """Print the JSON Schema of the canonical event."""
    typer.echo(json.dumps(event_json_schema(), indent=2, ensure_ascii=False))
