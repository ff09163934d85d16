"""Stream tokens: signed (JWS, HS256), for one run's stream, in the name of the key that asked for it.

``EventSource`` can send no header, so a page's stream carries its right in the URL, where logs and histories may keep
it.  So a token opens one stream and nothing else, and only for seconds.  ``EventSource`` also reconnects by itself, and
always with the URL it began with: a token still lets in whoever comes with a ``Last-Event-ID`` for some time after,
which is the time a page can lose its connection and get it back without asking for another token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from joserfc.jwk import OctKey

_ALGORITHMS = ["HS256"]
_AUDIENCE = "stream"
# Ours have about 350 characters, with the longest run id and tenant about 600.
_TOKEN_MAX = 2048


@dataclass(frozen=True, slots=True)
class StreamClaims:
    """What a token says: its run, for whom, by which key (None: none was needed), and when it was made (Unix time)."""

    run_id: str
    tenant: str
    key_id: str | None
    issued_at: float


def sign(claims: StreamClaims, key_id: str, secret: str) -> str:
    """Return the token, signed with the signing key of this id."""
    # Here and below, for an eighth of what the server imports is this, and few servers ever sign a token.
    from joserfc import jwt  # noqa: PLC0415

    content = {"aud": _AUDIENCE, "sub": claims.run_id, "tenant": claims.tenant, "iat": claims.issued_at}
    if claims.key_id is not None:
        content["key"] = claims.key_id
    header = {"alg": "HS256", "kid": key_id}
    return jwt.encode(header, content, _key(key_id, secret), algorithms=_ALGORITHMS)


def verify(token: str, signing: Iterable[tuple[str, str]]) -> StreamClaims | None:
    """Return what a token says, None when it is none of ours.

    :param signing: id and secret of every signing key that counts.
    """
    from joserfc import jwt  # noqa: PLC0415
    from joserfc.errors import JoseError  # noqa: PLC0415
    from joserfc.jwk import KeySet  # noqa: PLC0415

    if len(token) > _TOKEN_MAX or not token.isascii():
        return None
    keys = KeySet([_key(*entry) for entry in signing])
    try:
        found = jwt.decode(token, keys, algorithms=_ALGORITHMS)
    except (JoseError, ValueError, TypeError, KeyError, RecursionError):
        return None  # Whatever it is, it was not signed by us.
    match found.claims:
        case {"aud": "stream", "sub": str(run_id), "tenant": str(tenant), "iat": int() | float() as issued_at, **rest}:
            key_id = rest.get("key")
            return StreamClaims(run_id, tenant, key_id if isinstance(key_id, str) else None, issued_at)
    return None


def _key(key_id: str, secret: str) -> OctKey:
    from joserfc.jwk import OctKey  # noqa: PLC0415

    return OctKey.import_key({"kty": "oct", "k": secret, "kid": key_id})
