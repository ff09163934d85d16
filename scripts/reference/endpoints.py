"""Every call of the HTTP API and the shapes of its answers, from the OpenAPI document."""

from __future__ import annotations

import inspect
from http import HTTPStatus
from typing import Any, NoReturn

from scripts.reference.page import NOTE, Wordless, code, table, words
from tailrace.errors import NotStarted
from tailrace.http.api import build_api

INTRODUCTION = """\
What `GET /openapi.json` says, for people. Paths are under the root of the application. A process of any role serves
`/healthz`, `/readyz` and `/metrics`; one with the role `api` serves all, and `GET /console`, a page for people
([guide](../guide.md#the-console)) that stands in no OpenAPI document. Where keys are configured, they are sent as
`Authorization: Bearer …`. Refusals are [problem documents](errors.md#over-http).
"""
EVENT = """## The event

On every wire, one JSON object, keys in this order; absent fields are left out, never null. The JSON Schema is
[`event.schema.json`](event.schema.json), and what `tailrace schema` prints.

"""
# The shapes of answers that are told of below, in this order.
SHAPES = ("RunView", "RunErrorView", "RunList", "EventPage", "StreamToken", "Problem", "ProblemError")


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    return build_api(_not_running, version="-").openapi()


def page() -> str:
    """Return the page."""
    api = document()
    schemas = api["components"]["schemas"]
    parts = [f"{NOTE}# Endpoints\n\n{INTRODUCTION}"]
    parts += [
        _section(f"{method.upper()} {path}", operation, schemas)
        for path, item in api["paths"].items()
        for method, operation in item.items()
    ]
    parts.append(f"{EVENT}{_fields('Event', schemas)}")
    parts.append("## Shapes\n")
    parts += [
        f"### {name}\n\n{words(schemas[name]['description'], name)}\n\n{_fields(name, schemas)}" for name in SHAPES
    ]
    return "\n".join(parts)


def _not_running() -> NoReturn:
    raise NotStarted("only described")


def _section(call: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    text = f"## {call}\n\n**{words(operation.get('summary'), call)}.** {_prose(operation, call)}\n"
    if parameters := operation.get("parameters"):
        rows = [
            (
                f"`{of['name']}`",
                of["in"],
                _shape(of["schema"], schemas),
                words(of.get("description") or of["schema"].get("description"), f"{call} {of['name']}"),
            )
            for of in parameters
        ]
        text += f"\n{table(('value', 'in', 'shape', 'meaning'), rows)}"
    if (body := operation.get("requestBody")) is not None:
        text += f"\nThe body, as JSON:\n\n{_table(call, body['content']['application/json']['schema'], schemas)}"
    answers = [
        (status, words(_answer(int(status), answer, schemas), f"{call} {status}"))
        for status, answer in operation["responses"].items()
    ]
    return f"{text}\n{table(('status', 'answer'), answers)}"


def _prose(operation: dict[str, Any], call: str) -> str:
    words(operation.get("description"), call)
    return inspect.cleandoc(operation["description"])


def _answer(status: int, answer: dict[str, Any], schemas: dict[str, Any]) -> str:
    if (schema := answer.get("content", {}).get("application/json", {}).get("schema")) and "$ref" in schema:
        return _shape(schema, schemas)
    text: str = answer["description"]
    # What FastAPI writes where nothing is said.
    return HTTPStatus(status).phrase if text == "Successful Response" else text


def _fields(name: str, schemas: dict[str, Any]) -> str:
    return _table(name, schemas[name], schemas)


def _table(name: str, shape: dict[str, Any], schemas: dict[str, Any]) -> str:
    required = shape.get("required", [])
    rows = []
    for field, schema in shape["properties"].items():
        meaning = schema.get("description") or schemas.get(_named(schema) or "", {}).get("description")
        rows.append(
            (
                f"`{field}`",
                _shape(schema, schemas),
                "yes" if field in required else "",
                words(meaning, f"{name} {field}"),
            )
        )
    return table(("field", "shape", "required", "meaning"), rows)


def _named(schema: dict[str, Any]) -> str | None:
    reference: str | None = schema.get("$ref")
    return reference.rpartition("/")[2] if reference else None


def _shape(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """Return a schema in a few words."""
    if (name := _named(schema)) is not None:
        if name == "Event":
            return "[event](#the-event)"
        return f"[{name}](#{name.lower()})" if name in SHAPES else _shape(schemas[name], schemas)
    if "anyOf" in schema:
        # That an empty value counts as absent, and null as none, is so everywhere.
        return " or ".join(_shape(of, schemas) for of in schema["anyOf"] if of not in ({"const": ""}, {"type": "null"}))
    if "pattern" in schema:
        return code(schema["pattern"])
    allowed = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return ", ".join(f"`{value}`" for value in allowed) or _typed(schema, schemas)


def _typed(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    match schema.get("type"):
        case "array":
            return f"list of {_shape(schema['items'], schemas)}"
        case "integer" if "maximum" in schema and "minimum" in schema:
            return f"integer, {schema['minimum']} to {schema['maximum']}"
        case "integer" if "minimum" in schema:
            return f"integer ≥ {schema['minimum']}"
        case "string" if schema.get("format") == "date-time":
            return "time, RFC 3339 UTC"
        case str(kind):
            return kind
        case None:
            return "any JSON"
    raise Wordless(f"no words for {schema}")
