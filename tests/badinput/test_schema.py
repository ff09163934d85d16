"""The API held against its own OpenAPI document: schemathesis sends what it allows and what it forbids."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis import Case, GenerationMode

from tailrace.settings import Settings
from tests.patience import PATIENCE_SECONDS
from tests.read_support import RUNS, ServerProcess

# Each is two or three requests; every check of schemathesis looks at each answer.
EXAMPLES = 12
BOUNDED = hypothesis_settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def server(settings: Callable[..., Settings]) -> Iterator[ServerProcess]:
    with ServerProcess(
        settings(), role="all", TAILRACE_STREAM_MAX_SECONDS="0.05", TAILRACE_HEARTBEAT_SECONDS="0.02"
    ) as started:
        yield started


def test_the_api_takes_what_it_says_and_nothing_else(server: ServerProcess) -> None:
    """Every operation, with data that its schemas allow and data that they forbid: the status, the media type, the
    headers and the body of each answer are described, what is allowed is accepted and what is forbidden refused.
    """
    for run_id in ("ended", "waits"):
        body = {"agent": "echo" if run_id == "ended" else "wait", "runId": run_id}
        assert httpx2.post(f"{server.url}{RUNS}", json=body, timeout=PATIENCE_SECONDS).is_success
    answers: Counter[int] = Counter()
    for operation in _operations(server.url):
        _send(operation, GenerationMode.POSITIVE, answers)
        if operation.query or operation.headers or operation.path_parameters or operation.body:
            _send(operation, GenerationMode.NEGATIVE, answers)
    assert {200, 201, 202, 404, 409, 422} <= set(answers)
    assert max(answers) < 500
    assert httpx2.get(f"{server.url}/readyz", timeout=PATIENCE_SECONDS).is_success


def _operations(url: str) -> Iterator[Any]:
    schema = schemathesis.openapi.from_dict(
        json.loads(httpx2.get(f"{url}/openapi.json", timeout=PATIENCE_SECONDS).content)
    )
    schema.config.update(base_url=url)
    # A string that JSON can hold and Postgres cannot: no schema says so; tests/badinput/test_http.py does.
    schema.config.generation.allow_x00 = False
    for found in schema.get_all_operations():
        yield found.ok()  # type: ignore[union-attr] # an operation that cannot be read fails the test


def _send(operation: Any, mode: GenerationMode, answers: Counter[int]) -> None:
    @BOUNDED
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Case[Any]) -> None:
        if mode is GenerationMode.POSITIVE:
            _name_what_is_there(case)
        answer = case.call(timeout=PATIENCE_SECONDS)
        answers[answer.status_code] += 1
        case.validate_response(answer)

    send()


def _name_what_is_there(case: Case[Any]) -> None:
    """Replace what is allowed and means nothing to this server, so that more than its refusals is seen."""
    if case.path_parameters:
        case.path_parameters["runId"] = "waits" if "cancel" in case.path else "ended"
    if isinstance(case.body, dict):
        case.body["agent"] = "echo"
    if case.query:
        case.query.pop("cursor", None)  # That it comes from an earlier answer cannot be said in a schema.
