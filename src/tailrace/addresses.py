"""What the URLs in the settings may look like."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

ARCHIVE_STORES = ("s3", "gs", "az")
# The buses that need no address, and those that are servers of their own.
OWN_BUSES = ("postgres", "memory")
BUS_SERVERS = ("redis", "rediss", "nats", "tls")


def require_bus(url: str) -> None:
    """Raise ``ValueError`` with what is wrong; the text repeats no part that may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(
            "is not a URL; the port must be a number, and / ? # @ in a password be written %2F %3F …"
        ) from None
    scheme = parts.scheme
    if scheme in OWN_BUSES:
        if url != f"{scheme}://":
            raise ValueError(f"must be {scheme}:// alone: this bus has no address of its own")
    elif scheme not in BUS_SERVERS:
        raise ValueError(
            f"must begin with {', '.join(f'{known}://' for known in (*OWN_BUSES, *BUS_SERVERS))}"
            + (f"; found {scheme}://" if scheme else "")
        )
    elif not parts.hostname or port == 0:
        raise ValueError(f"needs the host of the server: {scheme}://host or {scheme}://user:password@host:port")
    elif scheme in ("redis", "rediss"):
        if not re.fullmatch(r"/?[0-9]{0,5}", parts.path):
            raise ValueError(f"may end in the number of a database, as in {scheme}://host/0")
    elif parts.path not in ("", "/") or parts.query:
        raise ValueError(f"takes nothing after the host and the port: {scheme}://host:port")


def require_place(url: str) -> None:
    """Raise ``ValueError`` unless the URL names a place for an archive."""
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        if parts.netloc or not parts.path.startswith("/") or not parts.path.strip("/"):
            raise ValueError("must be an absolute path, or file:///absolute/path")
    elif parts.scheme not in ARCHIVE_STORES:
        raise ValueError(f"must be an absolute path, file:///…, {', '.join(f'{s}://…' for s in ARCHIVE_STORES)}")
    elif not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("needs the name of the bucket, and no credentials: those come from the environment")
