"""A guard for servers without credentials: only requests that name a loopback host are answered.

Listening on loopback is not enough.  A web page may give its own name the address 127.0.0.1 (DNS rebinding), and the
browser then lets it talk to us as to itself; but it still sends its own name as the host.
"""

from __future__ import annotations

import functools
import ipaddress
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from tailrace.http.gate import SECURITY_HEADERS
from tailrace.http.problems import problem
from tailrace.telemetry import RequestRefused, Telemetry


class LoopbackHostOnly:
    """ASGI middleware that answers 421 where the ``Host`` is not loopback, and tells of it."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on requests for a loopback host, and whatever is not HTTP."""
        if scope["type"] == "http" and not all(_is_loopback(host) for host in _hosts(scope)):
            self._telemetry.tell(RequestRefused("foreign-host"))
            refusal = problem(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this server has no credentials configured and answers only to localhost, 127.0.0.1 and [::1]",
                kind="misdirected-request",
                headers=SECURITY_HEADERS,
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _hosts(scope: Scope) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"] or [""]


@functools.lru_cache(maxsize=64)  # One client sends the same with each request.
def _is_loopback(host: str) -> bool:
    name = host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.rpartition(":")[0] or host
    if name.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
