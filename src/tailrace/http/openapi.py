"""What the OpenAPI document says beyond what FastAPI can know: which values are taken, and every refusal.

Query values and headers are read strictly, and as text, by ``http.requests``; here stand the same rules as schemas.
A test sends what these schemas allow and what they forbid, and holds the answers against the document.
"""

from __future__ import annotations

from typing import Any

from tailrace.http.problems import describe_problems
from tailrace.model.event import RUN_ID_PATTERN
from tailrace.model.run import RunState

# An empty value of a query or of Last-Event-ID counts as absent.
_EMPTY = {"const": ""}
# By where it stands and its name in lower case; a path that is named has a rule of its own.
_PARAMETERS: dict[tuple[str, str], dict[str, Any]] = {
    ("path", "runid"): {"type": "string", "pattern": RUN_ID_PATTERN},
    ("query", "fromseq"): {"type": "string", "pattern": "^(0|[1-9][0-9]{0,18})$", "default": "0"},
    ("header", "last-event-id"): {"type": "string", "pattern": "^(|0|[1-9][0-9]{0,18})$"},
    ("header", "idempotency-key"): {"type": "string", "pattern": "^[!-~]{1,255}$"},
    ("query", "state"): {"anyOf": [{"type": "string", "enum": [str(state) for state in RunState]}, _EMPTY]},
    ("query", "agent"): {"type": "string", "pattern": "^[^\\u0000]*$"},
    ("query", "cursor"): {"type": "string"},
}
# What a value means, where the endpoint's signature does not say it.
_MEANINGS: dict[tuple[str, str], str] = {
    ("header", "idempotency-key"): "However often it is sent, one key starts one run.",
    ("query", "state"): "Only runs in this state.",
    ("query", "agent"): "Only runs of this agent.",
    ("query", "cursor"): "`nextCursor` of the page before.",
    ("query", "limit"): "Most that one page may hold.",
}
_REFUSALS = {
    "400": "The request is not HTTP as it should be.",
    "408": "The request did not come in time.",
    "415": "The body is declared as something else than plain JSON.",
    "422": "Something in the request is not acceptable; `errors` says where.",
}


def describe(document: dict[str, Any], *, limits: dict[str, int]) -> dict[str, Any]:
    """Complete what FastAPI generates, and return it.

    :param limits: by path, the most that the query value ``limit`` may be.
    """
    document = describe_problems(document)
    for path, item in document["paths"].items():
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                _describe_parameter(parameter, limits.get(path))
            answers = operation["responses"]
            for status in _refused(operation):
                answers.setdefault(status, _refusal(_REFUSALS[status]))
            operation["responses"] = dict(sorted(answers.items()))
    return document


def _refused(operation: dict[str, Any]) -> tuple[str, ...]:
    if "requestBody" in operation:
        return ("400", "408", "415", "422")
    return ("400", "422") if operation.get("parameters") else ("400",)


def _describe_parameter(parameter: dict[str, Any], limit_max: int | None) -> None:
    name = parameter["name"].lower()
    if (meaning := _MEANINGS.get((parameter["in"], name))) is not None:
        parameter.setdefault("description", meaning)
    if name == "limit" and limit_max is not None:
        parameter["schema"] = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": limit_max}, _EMPTY]}
    elif (rule := _PARAMETERS.get((parameter["in"], name))) is not None:
        parameter["schema"] = dict(rule)


def _refusal(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}
