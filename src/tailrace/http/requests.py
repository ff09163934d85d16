"""What comes in: bodies and query values, read strictly."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from tailrace.errors import BodyTooLarge, Fault, InvalidInput
from tailrace.model import strictjson
from tailrace.model.event import RUN_ID_PATTERN
from tailrace.model.run import AGENT_NAME_MAX

_COUNT = re.compile(r"[1-9][0-9]{0,9}\Z", re.ASCII)
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")


class StartRun(BaseModel):
    """Body of ``POST /api/agents/runs``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    agent: Annotated[str, Field(min_length=1, max_length=AGENT_NAME_MAX, description="Name of the agent to run.")]
    input: Annotated[Any, Field(description="Any JSON value; the agent reads it as `run.input`.", repr=False)] = None
    run_id: Annotated[
        str | None,
        Field(alias="runId", pattern=RUN_ID_PATTERN, max_length=128, description="Id of the run; made up when absent."),
    ] = None


async def read_json(request: Request, max_bytes: int) -> Any:
    """Return the body as strict JSON.

    :raises BodyTooLarge: it has more than ``max_bytes`` bytes; no more than that is read.
    :raises InvalidInput: it is not strict JSON.
    """
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    # The body is one object around the input, which may be as deep as any document.
    return strictjson.parse(bytes(body), depth_max=strictjson.DEPTH_MAX + 1)


def start_run(document: object) -> StartRun:
    """Return the body of a start call, or raise ``InvalidInput`` with a pointer to each place that is wrong."""
    if not isinstance(document, dict):
        strictjson.refuse("", "must be an object")
    try:
        return StartRun.model_validate(document)
    except ValidationError as error:
        faults = [
            Fault("".join(f"/{_escaped(part)}" for part in found["loc"]), found["msg"])
            for found in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise InvalidInput(f"the body is not acceptable: {faults[0].pointer} {faults[0].detail}", faults) from None


def parse_count(text: str | None, pointer: str, *, default: int, maximum: int) -> int:
    """Return how many are asked for: ``default`` when absent or empty, 1 to ``maximum``, else ``InvalidInput``."""
    if not text:
        return default
    if _COUNT.match(text) and (count := int(text)) <= maximum:
        return count
    raise InvalidInput(
        f"the {pointer[1:]} is not acceptable", [Fault(pointer, f"must be a whole number from 1 to {maximum}")]
    )


def check_idempotency_key(key: str | None) -> str | None:
    """Return the key if it is 1 to 255 visible ASCII characters or absent, else raise ``InvalidInput``."""
    if key is None or _IDEMPOTENCY_KEY.match(key):
        return key
    raise InvalidInput(
        "the Idempotency-Key is not acceptable",
        [Fault("/Idempotency-Key", "must be 1 to 255 visible ASCII characters, without spaces")],
    )


def _escaped(part: int | str) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than the {max_bytes} bytes that TAILRACE_MAX_BODY_BYTES allows")
