"""``TAILRACE_BUS_URL``: what is taken, what is refused and how, and that its password is never repeated."""

from __future__ import annotations

import pytest

from tailrace.errors import SettingsError
from tailrace.settings import load_settings


@pytest.mark.parametrize(
    "url",
    [
        "postgres://",
        "memory://",
        "redis://localhost",
        "redis://:secret@localhost:6379/3",
        "rediss://me:p%40ss@cache.example?ssl_cert_reqs=none",
        "nats://localhost:4222",
        "nats://token@[::1]:4222",
        "tls://me:secret@nats.example",
    ],
)
def test_a_bus_is_taken(url: str) -> None:
    """Every kind, with what it may carry."""
    assert load_settings(bus_url=url).bus_url.get_secret_value() == url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kafka://me:s3cret@localhost", "must begin with postgres://, memory://, redis://"),
        ("localhost:6379", "must begin with"),
        ("s3cret", "must begin with"),
        ("postgres://me:s3cret@db/x", "must be postgres:// alone"),
        ("memory://x", "must be memory:// alone"),
        ("redis://", "needs the host"),
        ("nats://me:s3cret@", "needs the host"),
        ("redis://:s3cret@localhost:port", "is not a URL"),
        ("redis://:s3cret/x@localhost", "is not a URL"),
        ("redis://:s3cret@localhost:70000", "is not a URL"),
        ("redis://:s3cret@localhost/mine", "number of a database"),
        ("nats://me:s3cret@localhost/x", "nothing after the host"),
    ],
)
def test_what_is_not_a_bus_is_refused_with_what_is_allowed(url: str, says: str) -> None:
    """Naming the setting; a value that may hold a password is not repeated."""
    with pytest.raises(SettingsError, match=says) as refused:
        load_settings(bus_url=url)
    assert str(refused.value).startswith("TAILRACE_BUS_URL: ")
    assert "s3cret" not in str(refused.value)


def test_the_password_is_in_no_representation() -> None:
    """Settings are logged and dumped by those who look for trouble."""
    settings = load_settings(bus_url="redis://:s3cret@localhost")
    assert "s3cret" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
