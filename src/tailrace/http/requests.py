"""What comes in: bodies and query values, read strictly."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request

from tailrace.errors import BodyTooLarge, BodyTooSlow, Fault, InvalidInput, UnsupportedBody
from tailrace.model import strictjson
from tailrace.model.event import RUN_ID_PATTERN
from tailrace.model.run import AGENT_NAME_MAX

_FORM_TYPE = "application/x-www-form-urlencoded"
_COUNT = re.compile(r"[1-9][0-9]{0,9}\Z", re.ASCII)
# As Apache's mod_reqtimeout: a large body on a slow line is no attack, a byte now and then is.
BODY_BYTES_PER_SECOND = 1024
_JSON_TYPE = re.compile(
    r"application/(?:[a-z0-9.-]+\+)?json(?:\s*;\s*charset=\"?utf-?8\"?)?\s*;?\Z", re.ASCII | re.IGNORECASE
)
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")


# Headers of which one is meant.  Host and Content-Length are the server's to refuse, Authorization and the query value
# `token` those of http.caller.
_SINGLE_HEADERS = {
    name.lower().encode(): name for name in ("Content-Encoding", "Content-Type", "Idempotency-Key", "Last-Event-ID")
}


class StartRun(BaseModel):
    """Body of ``POST /api/agents/runs``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    agent: Annotated[str, Field(min_length=1, max_length=AGENT_NAME_MAX, description="Name of the agent to run.")]
    input: Annotated[Any, Field(description="Any JSON value; the agent reads it as `run.input`.", repr=False)] = None
    run_id: Annotated[
        str | None,
        Field(alias="runId", pattern=RUN_ID_PATTERN, max_length=128, description="Id of the run; made up when absent."),
    ] = None


def refuse_ambiguity(request: Request) -> None:
    """Raise ``InvalidInput`` where two values were sent and one is meant: whoever is in front may choose the other."""
    sent = [name for name, _ in request.scope["headers"] if name in _SINGLE_HEADERS]
    if len(sent) == len(set(sent)) and not request.scope["query_string"]:
        return  # As nearly all are.
    faults = [
        Fault(f"/{title}", "was sent more than once") for name, title in _SINGLE_HEADERS.items() if sent.count(name) > 1
    ]
    counted = Counter(name for name, _ in request.query_params.multi_items() if name != "token")
    faults += [Fault(f"/{_escaped(name)}", "was sent more than once") for name, count in counted.items() if count > 1]
    if faults:
        raise InvalidInput(f"the request is ambiguous: {faults[0].pointer[1:]} {faults[0].detail}", faults)


async def read_json(request: Request, max_bytes: int, seconds: float) -> Any:
    """Return the body as strict JSON.

    :param seconds: how long the body may take to come, and one more for each ``BODY_BYTES_PER_SECOND`` that came.
    :raises BodyTooLarge: it has more than ``max_bytes`` bytes; no more than that is read.
    :raises BodyTooSlow: it did not come in time.
    :raises UnsupportedBody: it is declared as something else than plain JSON.
    :raises InvalidInput: it is not strict JSON.
    """
    headers = dict(request.scope["headers"])
    _require_plain_json(headers)
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    # The body is one object around the input, which may be as deep as any document.
    return strictjson.parse(await _body(request, max_bytes, seconds), depth_max=strictjson.DEPTH_MAX + 1)


async def _body(request: Request, max_bytes: int, seconds: float) -> bytes:
    body = bytearray()
    until = asyncio.get_running_loop().time() + seconds
    try:
        async with asyncio.timeout_at(until) as bound:
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
                if not message.get("more_body", False):
                    return bytes(body)
                bound.reschedule(until + len(body) / BODY_BYTES_PER_SECOND)
    except TimeoutError:
        raise BodyTooSlow(f"the body did not come in time: after {seconds:g} s there were {len(body)} bytes") from None


def _require_plain_json(headers: Mapping[bytes, bytes]) -> None:
    """Refuse bodies that say they are something else.

    A form's type is let through, for `curl -d` and urllib give it to any body; what other sites' forms send is refused
    by its origin (``http.gate``).
    """
    coding = headers.get(b"content-encoding", b"identity").decode("latin-1")
    if coding.strip().lower() not in ("", "identity"):
        raise UnsupportedBody(f"the body is encoded as {coding[:100]!r}; send it as it is, without Content-Encoding")
    if (sent := headers.get(b"content-type")) is None:
        return
    kind = sent.decode("latin-1")
    if not _JSON_TYPE.match(kind.strip()) and kind.strip().lower() != _FORM_TYPE:
        raise UnsupportedBody(f"the body is declared as {kind[:100]!r}; send Content-Type: application/json")


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
