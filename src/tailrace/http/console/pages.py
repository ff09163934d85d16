"""The console's page and what it is made of, as files that anybody may have: they hold no data and no right.

The page asks the API as any client does, with the key of whoever sits in front of it, and finds it by relative URLs, so
it works wherever the App is mounted.  It shows what agents and their callers wrote, which may be hostile: the policy
lets it run the files below, talk to its own server, and nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

PATH = "/console"
PAGE = "console.html"
MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    media_type: str
    etag: str


def console() -> APIRouter:
    """Return the routes ``/console`` and ``/console/…``; they need no key, and stand in no OpenAPI document."""
    router = APIRouter(include_in_schema=False)
    files = _read()

    async def page(request: Request) -> Response:
        return _answer(request, files[PAGE])

    async def part(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in files or name == PAGE:
            raise HTTPException(404)
        return _answer(request, files[name])

    async def without_slash(_request: Request) -> Response:
        # Relative, because only the browser knows where the App is mounted.
        return Response(status_code=308, headers={"Location": f"..{PATH}"})

    for path, endpoint in ((PATH, page), (f"{PATH}/", without_slash), (f"{PATH}/{{name}}", part)):
        router.add_route(path, endpoint, methods=["GET", "HEAD"])
    return router


def _read() -> dict[str, _File]:
    found = {}
    for file in resources.files(__package__).joinpath("files").iterdir():
        media_type = MEDIA_TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None:
            body = file.read_bytes()
            found[file.name] = _File(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found


def _answer(request: Request, file: _File) -> Response:
    # Asked for each time and answered 304: after an upgrade no browser runs half of the old console.
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "ETag": file.etag}
    if _has(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    headers |= {"Content-Type": file.media_type, "Content-Length": str(len(file.body))}
    return Response(b"" if request.method == "HEAD" else file.body, headers=headers)


def _has(if_none_match: str, etag: str) -> bool:
    """Whether the client has this file; proxies that compress make tags weak."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags
