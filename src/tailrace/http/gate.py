"""The gate: what holds for every request before it is routed, and for every answer, whoever gives it.

It asks nobody for a key: ``http.caller`` does, at each endpoint, because what is needed differs.  It refuses what no
endpoint should see, answers a browser's preflight, and sets the headers that keep browsers from doing harm.
"""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailrace.access.keys import contains_a_key, looks_like_a_key
from tailrace.errors import AccessRefused, CrossSiteRefused, KeyMisplaced, NotStarted
from tailrace.http.problems import problem_of, tell_refused
from tailrace.http.services import GetServices

# Of every answer. A route whose answer is a page sets its own policy. An answer opened in a tab may follow a stream of
# its own server from the browser's console, and do nothing else.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; frame-ancestors 'none'",
}
PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
    "Access-Control-Max-Age": "600",
}
EXPOSED = "Location, Retry-After"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Gate:
    """ASGI middleware around the API.

    :param get_services: gives the running App's settings and credentials; before it runs, no origin is allowed.
    """

    def __init__(self, app: ASGIApp, get_services: GetServices) -> None:
        self._app = app
        self._get_services = get_services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass; whatever is not HTTP passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origins, is_open = self._policy()
        answer_headers = _SECURITY_PAIRS
        if origins:
            answer_headers = [*_SECURITY_PAIRS, *_pairs(_cors_headers(headers.get("origin"), origins))]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = list(message["headers"])
                names = {name for name, _ in own}
                message["headers"] = own + [pair for pair in answer_headers if pair[0] not in names]
            await send(message)

        answer: ASGIApp = self._app
        try:
            if _is_preflight(scope, headers, origins, is_open=is_open):
                answer = Response(status_code=HTTPStatus.NO_CONTENT, headers=PREFLIGHT_HEADERS)
        except AccessRefused as error:
            tell_refused(error, self._get_services)
            answer = problem_of(error)
        await answer(scope, receive, send_with_headers)

    def _policy(self) -> tuple[tuple[str, ...], bool]:
        """Return the allowed origins, and whether there are no credentials."""
        try:
            services = self._get_services()
        except NotStarted:
            return (), False
        return services.settings.cors_origins, not services.credentials.configured


def _is_preflight(scope: Scope, headers: Headers, origins: tuple[str, ...], *, is_open: bool) -> bool:
    """Whether this is a preflight that may pass; raise ``AccessRefused`` for a request that no endpoint should see."""
    if _has_key_in_url(scope):
        raise KeyMisplaced(
            "a key stands in the URL, where logs and histories keep it: send it as `Authorization: Bearer …`, and "
            "revoke this one"
        )
    if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
        if _is_allowed(headers.get("origin"), origins):
            return True
        raise CrossSiteRefused(_not_named(headers))
    if is_open and scope["method"] not in _SAFE_METHODS and _is_cross_site(headers, origins):
        raise CrossSiteRefused(_not_named(headers))
    return False


def _has_key_in_url(scope: Scope) -> bool:
    # In the path it stands where a run's id would; the server has decoded it.
    if "tr_" in scope["path"] and contains_a_key(scope["path"]):
        return True
    query = scope["query_string"].decode("latin-1")
    # Most requests have none, and "tr" cannot be written otherwise but with percent signs.
    if "tr_" not in query and "%" not in query:
        return False
    return any(looks_like_a_key(part) for pair in parse_qsl(query, keep_blank_values=True) for part in pair)


def _is_cross_site(headers: Headers, origins: tuple[str, ...]) -> bool:
    """Whether a browser sent this for a page that is not ours and not of an allowed origin.

    A simple ``POST`` needs no preflight, so closed CORS would only hide its answer.  ``Sec-Fetch-Site`` cannot be set
    by a page; what sends neither it nor an ``Origin`` is no browser.
    """
    origin = headers.get("origin")
    if _is_allowed(origin, origins):
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    return origin is not None and urlsplit(origin).netloc != headers.get("host", "")


def _is_allowed(origin: str | None, origins: tuple[str, ...]) -> bool:
    return origin is not None and (origin in origins or "*" in origins)


def _not_named(headers: Headers) -> str:
    return f"TAILRACE_CORS_ORIGINS does not name the origin {headers.get('origin', '')[:200]!r} of this page"


def _cors_headers(origin: str | None, origins: tuple[str, ...]) -> dict[str, str]:
    # Answers differ by origin, so caches must not give one origin's to another.
    found = {"Vary": "Origin"}
    if _is_allowed(origin, origins):
        found["Access-Control-Allow-Origin"] = "*" if "*" in origins else str(origin)
        found["Access-Control-Expose-Headers"] = EXPOSED
    return found


def _pairs(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI wants them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


_SECURITY_PAIRS = _pairs(SECURITY_HEADERS)
