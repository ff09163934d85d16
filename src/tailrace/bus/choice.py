"""Which bus a checked ``TAILRACE_BUS_URL`` names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from tailrace.bus.bus import Bus
from tailrace.bus.linked import LinkedBus, Wire
from tailrace.bus.local_first import LocalFirst
from tailrace.bus.memory import MemoryBus
from tailrace.bus.postgres import PostgresBus
from tailrace.errors import SettingsError
from tailrace.store.doorbell import Doorbell
from tailrace.telemetry import Telemetry

LinkOnce = Callable[[], Awaitable[bool]]


def choose_bus(url: str, namespace: str, doorbell: Doorbell, telemetry: Telemetry) -> tuple[Bus, LinkOnce | None]:
    """Return the bus, and what a duty must run to keep it linked if it has a server of its own.

    :param namespace: keeps the subjects of several Tailraces on one server apart.
    :raises SettingsError: the driver for it is not installed.
    """
    match urlsplit(url).scheme:
        case "memory":
            return MemoryBus(), None
        case "postgres":
            return LocalFirst(PostgresBus(doorbell)), None
        case _:
            linked = LinkedBus(_wire(url, namespace), telemetry)
            return LocalFirst(linked), linked.link_once


def _wire(url: str, namespace: str) -> Wire:
    """Return the way to the server that a checked bus URL names."""
    extra = "nats" if urlsplit(url).scheme in ("nats", "tls") else "redis"
    try:
        # Optional: imported only by those who name them.
        if extra == "nats":
            from tailrace.bus.nats import NatsWire  # noqa: PLC0415

            return NatsWire(url, namespace)
        from tailrace.bus.redis import RedisWire  # noqa: PLC0415

        return RedisWire(url, namespace)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"TAILRACE_BUS_URL names a {extra} server, and the package {error.name} is not installed: "
            f"pip install 'tailrace[{extra}]'"
        ) from error
