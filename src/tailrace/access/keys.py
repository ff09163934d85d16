"""Keys: ``tr_<id>_<secret>``, 48 and 256 random bits in hexadecimal.

The file keeps SHA-256 of the whole key.  A slow hash protects what people choose, because what they choose can be
guessed; 256 random bits cannot be, at any speed, and a slow hash at every request would be a gift to whoever wants the
server busy.  No salt: two keys are never the same.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

_SHAPE = "tr_([0-9a-f]{12})_[0-9a-f]{64}"
# Looser, to recognise a key that was cut or embedded.
_LIKE_A_KEY = re.compile(r"(?<![0-9A-Za-z])tr_[0-9A-Za-z]{4,}_[0-9A-Za-z]{16,}")
_WITHIN = re.compile(f"(?<![0-9A-Za-z]){_SHAPE}(?![0-9A-Za-z])")
# What a key with an unknown id is compared with, so that it costs what a known id costs.
_NOBODY = "0" * 64


def new_key() -> tuple[str, str]:
    """Return the id of a new key and the key."""
    key_id = secrets.token_hex(6)
    return key_id, f"tr_{key_id}_{secrets.token_hex(32)}"


def hash_of(key: str) -> str:
    """Return what the file keeps of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def id_of(key: str) -> str | None:
    """Return the id in a key, None when it is no key."""
    match = re.fullmatch(_SHAPE, key)
    return match[1] if match else None


def matches(key: str, kept_hash: str | None) -> bool:
    """Whether ``kept_hash`` is that of ``key``, in a time that does not depend on where they differ.

    :param kept_hash: None when no key has this id; the answer is no, at the same cost.
    """
    same = hmac.compare_digest(hash_of(key), kept_hash or _NOBODY)
    return same and kept_hash is not None


def looks_like_a_key(text: str) -> bool:
    """Whether some part of ``text`` has a key's shape, or one like it."""
    return _LIKE_A_KEY.search(text) is not None


def contains_a_key(text: str) -> bool:
    """Whether some part of ``text`` has exactly a key's shape, for places where names like it are to be had."""
    return _WITHIN.search(text) is not None
