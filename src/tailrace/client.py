"""``tailrace.Client``: starts, watches and cancels runs over HTTP."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2
import orjson
from pydantic import BaseModel, ValidationError

from tailrace.errors import ApiError, ServerUnavailable, UsageError
from tailrace.http.requests import check_idempotency_key
from tailrace.http.views import EventPage, RunList, RunView, StreamToken
from tailrace.model import strictjson
from tailrace.model.event import SEQ_MAX, Event
from tailrace.model.run import is_run_id, parse_position

RUNS = "/api/agents/runs"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
# Three missed heartbeats of the default length: the connection is dead, whatever TCP thinks.
SILENCE_SECONDS = 45.0
# What a lost connection raises. On uvloop one that is lost as it is made is an AttributeError of anyio's (seen under a
# campaign of cut connections): its transport has no socket any more to ask for the peer's name.
_LOST = (httpx2.HTTPError, OSError, AttributeError)
RETRY_FIRST_SECONDS = 0.1
RETRY_MAX_SECONDS = 5.0
# The server's largest event with room for its other fields; a longer line is no event.
LINE_MAX_BYTES = 32 * 2**20
_KEY = re.compile(r"[\x21-\x7e]+\Z")
_USER = re.compile(r"(?<=//)[^/@]*@")

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class Client:
    """Talks to a Tailrace server.

    ::

        async with tailrace.Client("http://127.0.0.1:8400") as client:
            run = await client.start("digest", {"path": "."})
            async for event in client.stream(run.run_id):
                print(event.seq, event.type)

    :param url: the server's root, with the prefix it is mounted under if it is.
    :param api_key: sent as ``Authorization: Bearer …``; a server without credentials does not look at it.
    :param transport: another way to reach it than TCP, such as ``httpx2.AsyncHTTPTransport(uds=…)``.
    :param silence_seconds: a stream that is silent for longer is connected anew; above the server's heartbeat.
    :raises UsageError: the URL is none that a server can have.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        if api_key is not None and not _KEY.match(api_key):
            raise UsageError("the API key has characters that no key has; is there a space or a line break in it?")
        self._url = checked_url(url)
        self._silence_seconds = silence_seconds
        self._http = httpx2.AsyncClient(
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            transport=transport,
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            follow_redirects=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def start(
        self,
        agent: str,
        input: Any = None,  # noqa: A002 - the contract's name
        *,
        run_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> RunView:
        """Start a run and return it.

        :param input: any JSON value.
        :param idempotency_key: with the same key and the same request, the run of the first time is returned.
        :raises InvalidInput: the input is not strict JSON, or the key not acceptable.
        :raises ApiError: the server refused; ``.status`` and ``.problem`` say why.
        :raises ServerUnavailable: it could not be reached.
        """
        check_idempotency_key(idempotency_key)
        strictjson.check({"agent": agent, "runId": run_id})
        body: dict[str, Any] = {"agent": agent}
        if input is not None:
            body["input"] = orjson.Fragment(strictjson.dump(input))
        if run_id is not None:
            body["runId"] = run_id
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key is not None else {}
        return await self._call(RunView, "POST", RUNS, body=body, headers=headers)

    async def get(self, run_id: str) -> RunView:
        """Return a run; errors as for ``start``."""
        return await self._call(RunView, "GET", _path(run_id))

    async def list(
        self, *, state: str | None = None, agent: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> RunList:
        """Return a page of runs, newest first; errors as for ``start``."""
        query = {"state": state, "agent": agent, "limit": str(limit), "cursor": cursor}
        given = {name: value for name, value in query.items() if value is not None}
        strictjson.check(given)
        return await self._call(RunList, "GET", RUNS, query=given)

    async def events(self, run_id: str, *, from_seq: int = 0, limit: int = 100) -> EventPage:
        """Return a page of published events with a seq above ``from_seq``; errors as for ``start``."""
        query = {"fromSeq": str(_position(from_seq)), "limit": str(limit)}
        return await self._call(EventPage, "GET", f"{_path(run_id)}/events", query=query)

    async def cancel(self, run_id: str) -> RunView:
        """Cancel a run and return it; errors as for ``start``."""
        return await self._call(RunView, "POST", f"{_path(run_id)}/cancel")

    async def stream_token(self, run_id: str) -> StreamToken:
        """Return a token for a browser's ``EventSource``, as `…/stream?token=`; errors as for ``start``."""
        return await self._call(StreamToken, "POST", f"{_path(run_id)}/stream-token")

    async def stream(self, run_id: str, *, from_seq: int = 0) -> AsyncIterator[Event]:
        """Yield the run's events after ``from_seq``, each once and in order, up to the terminal one.

        Connects anew by itself, with the last seq it has yielded, until the run ends; it waits longer after each
        failure, up to five seconds, and has no end of its own: bound it with ``asyncio.timeout`` if you need one.

        :raises InvalidPosition: ``from_seq`` is no whole number from 0, of at most 19 digits.
        :raises ApiError: the server refused, for instance because there is no such run.
        """
        position, failures = _position(from_seq), 0
        while True:
            delay = 0.0
            try:
                async with self._open_stream(run_id, position) as response:
                    if response.status_code == httpx2.codes.NO_CONTENT:
                        return
                    if response.status_code != httpx2.codes.OK:
                        await response.aread()
                        raise _api_error(response)
                    async for event in _events(response):
                        if event.seq <= position:
                            continue
                        if event.seq != position + 1:
                            break  # Never skip: ask again from where we are.
                        position, failures = event.seq, 0
                        yield event
                        if event.is_terminal:
                            return
            except ApiError as error:
                if error.status < httpx2.codes.INTERNAL_SERVER_ERROR:
                    raise
            except _LOST:
                pass
            failures += 1
            delay = min(RETRY_MAX_SECONDS, RETRY_FIRST_SECONDS * 2 ** min(failures - 1, 10))
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - spreads clients out, guards nothing

    @property
    def _address(self) -> str:
        """The URL without the user and the password that may stand in it."""
        return _USER.sub("", self._url)

    def _open_stream(self, run_id: str, position: int) -> Any:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(position)}
        timeout = httpx2.Timeout(self._silence_seconds, connect=CONNECT_SECONDS)
        return self._http.stream("GET", f"{self._url}{_path(run_id)}/stream", headers=headers, timeout=timeout)

    async def _call(
        self,
        shape: type[AnswerT],
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AnswerT:
        content = orjson.dumps(body) if body is not None else None
        sent = {"Content-Type": "application/json", **(headers or {})} if content is not None else headers
        try:
            response = await self._http.request(
                method, f"{self._url}{path}", content=content, params=query, headers=sent
            )
        except _LOST as error:
            found = str(error) or type(error).__name__
            raise ServerUnavailable(
                f"could not reach Tailrace at {self._address}: {found}. Is `tailrace serve` running?"
            ) from error
        if response.status_code >= httpx2.codes.MULTIPLE_CHOICES:
            raise _api_error(response)
        try:
            return shape.model_validate_json(response.content)
        except ValidationError as error:
            detail = f"{self._address} answered {method} {path} with something that is not Tailrace's"
            raise ApiError(response.status_code, {"detail": detail}) from error


def _path(run_id: str) -> str:
    # An id that no run can have may be taken for another path on its way; the server's answer is known already.
    if not is_run_id(run_id):
        raise ApiError(
            httpx2.codes.NOT_FOUND, {"status": 404, "title": "Not Found", "detail": f"there is no run {run_id[:128]!r}"}
        )
    return f"{RUNS}/{run_id}"


def checked_url(url: str) -> str:
    """Return a server's root without its last slash; raise ``UsageError`` for what can be none."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, UnicodeError, TypeError) as error:
        raise UsageError(f"{url!r:.200} is not the URL of a server: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{url!r:.200} is not the URL of a server; give one as http://127.0.0.1:8400")
    return url.rstrip("/")


def _position(from_seq: object) -> int:
    # True is a number to Python and none to anybody else, and text of 5,000 digits is not made to be refused.
    is_one = type(from_seq) is int and abs(from_seq) <= 2 * SEQ_MAX
    return parse_position(str(from_seq) if is_one else "", "/fromSeq")


def _api_error(response: httpx2.Response) -> ApiError:
    try:
        problem = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        problem = {}
    return ApiError(response.status_code, problem if isinstance(problem, dict) else {})


async def _events(response: httpx2.Response) -> AsyncIterator[Event]:
    """Yield the events of an SSE response.  Lines are split at LF alone: U+2028 may stand inside JSON."""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > LINE_MAX_BYTES:
            raise httpx2.RemoteProtocolError(f"a line of the stream is longer than {LINE_MAX_BYTES} bytes")
        for line in lines:
            if line.startswith(b"data:"):
                try:
                    yield Event.model_validate_json(line[5:])
                except ValidationError as error:
                    raise httpx2.RemoteProtocolError(f"the stream sent something that is no event: {error}") from error
