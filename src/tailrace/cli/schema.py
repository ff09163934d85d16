"""``tailrace schema``: the event's JSON Schema."""

from __future__ import annotations

import orjson
import typer

from tailrace.cli.output import Json, print_json
from tailrace.model.event import event_json_schema


def schema(json: Json = False) -> None:
    """Print the JSON Schema of the event, as it is on every wire.

    With --json it is printed on one line.
    """
    if json:
        print_json(event_json_schema())
    else:
        typer.echo(orjson.dumps(event_json_schema(), option=orjson.OPT_INDENT_2).decode())
