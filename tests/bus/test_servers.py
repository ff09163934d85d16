"""What is particular to Redis and NATS as servers: who may in, what they refuse, and what they drop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from nats.aio.client import Client
from redis.asyncio import Redis

from tailrace.bus.bus import Published
from tailrace.bus.linked import LinkedBus, Wire, address_of
from tailrace.bus.nats import NatsWire
from tailrace.bus.redis import RedisLink, RedisWire
from tailrace.errors import BusUnavailable, SettingsError
from tailrace.runtime import run_roles
from tailrace.settings import Settings
from tailrace.telemetry import BusLost, Telemetry
from tests.conformance.media import Process, linking
from tests.patience import PATIENCE_SECONDS
from tests.read_support import event, until
from tests.servers import Server, nats, valkey
from tests.write_support import Told

PASSWORD = "p@ss/w:rd"
QUOTED = "p%40ss%2Fw%3Ard"


def guarded(kind: str, folder: Path) -> tuple[Server, Callable[[str], Wire]]:
    """Return a server that wants a password, and how to reach it with one."""
    if kind == "redis":
        server = valkey(folder, "--requirepass", PASSWORD)
        return server, lambda password: RedisWire(f"redis://:{password}@127.0.0.1:{server.port}", "ns")
    server = nats(folder, f'authorization {{ user: "me", password: "{PASSWORD}" }}\n')
    return server, lambda password: NatsWire(f"nats://me:{password}@127.0.0.1:{server.port}", "ns")


@pytest.mark.parametrize("kind", ["redis", "nats"])
async def test_the_password_in_the_url_is_used_and_never_shown(kind: str, tmp_path: Path, told: Told) -> None:
    """Neither when it is right nor when it is wrong, in an error, a happening or a repr."""
    server, wire = guarded(kind, tmp_path)
    with server:
        right = LinkedBus(wire(QUOTED), Telemetry([told]), patience_seconds=PATIENCE_SECONDS)
        async with linking(right):
            await right.check()
        wrong = LinkedBus(wire("wr0ng"), Telemetry([told]), patience_seconds=PATIENCE_SECONDS)
        async with linking(wrong, wait=False):
            lost = await told.until(BusLost)
            with pytest.raises(BusUnavailable) as away:
                await wrong.check()
    shown = f"{lost} {away.value} {right!r} {wrong!r}"
    assert "auth" in shown.lower() or "password" in shown.lower()
    for secret in (PASSWORD, QUOTED, "wr0ng"):
        assert secret not in shown


@pytest.fixture
def told() -> Told:
    return Told()


async def test_what_is_over_the_servers_own_bound_goes_as_news_alone(tmp_path: Path) -> None:
    """NATS names its max_payload; an event over it costs a read, not the link."""
    with nats(tmp_path, "max_payload: 1024\n") as server:
        buses = [
            LinkedBus(NatsWire(f"nats://127.0.0.1:{server.port}", "ns"), Telemetry(), patience_seconds=PATIENCE_SECONDS)
            for _ in range(2)
        ]
        one, other = (Process(bus) for bus in buses)
        async with linking(buses[0]), linking(buses[1]):
            await other.bus.subscribe("r")
            large = event("r", 1)._replace(data='{"text":"' + "x" * 2000 + '"}')
            await one.bus.publish([Published("r", 1, [large]), Published("r", 2, [event("r", 2)])])
            await other.hears("r", 2)
            assert other.heard == [Published("r", 1, []), Published("r", 2, [event("r", 2)])]


async def test_what_the_driver_drops_is_announced_as_a_loss(tmp_path: Path) -> None:
    """nats-py keeps a bounded number of messages and drops the rest, telling its error callback alone."""
    with nats(tmp_path) as server:
        url = f"nats://127.0.0.1:{server.port}"
        slow = LinkedBus(NatsWire(url, "ns", pending_max_messages=1), Telemetry(), patience_seconds=PATIENCE_SECONDS)
        fast = LinkedBus(NatsWire(url, "ns"), Telemetry(), patience_seconds=PATIENCE_SECONDS)
        hearer, publisher = Process(slow), Process(fast)
        async with linking(slow), linking(fast):
            await hearer.bus.subscribe("r")
            before = hearer.losses
            await publisher.bus.publish([Published("r", seq) for seq in range(1, 500)])
            await hearer.loses(before + 1)
            await hearer.bus.check()


@pytest.mark.parametrize("kind", ["redis", "nats"])
async def test_strangers_messages_are_passed_over(kind: str, tmp_path: Path) -> None:
    """Whoever may publish on the server may publish nonsense."""
    server = valkey(tmp_path) if kind == "redis" else nats(tmp_path)
    with server:
        url = f"{kind}://127.0.0.1:{server.port}"
        new: Callable[[], Wire] = lambda: RedisWire(url, "ns") if kind == "redis" else NatsWire(url, "ns")  # noqa: E731
        buses = [LinkedBus(new(), Telemetry(), patience_seconds=PATIENCE_SECONDS) for _ in range(2)]
        one, other = (Process(bus) for bus in buses)
        async with linking(buses[0]), linking(buses[1]):
            await other.bus.subscribe("r")
            nonsense = [b"", b"\xff\x00", b"[1,2]", b'[1,"s","unwatched",5,[]]']
            if kind == "redis":
                async with Redis.from_url(url) as stranger:
                    assert [await stranger.publish("tailrace:ns:0:r", each) for each in nonsense] == [1] * 4
            else:
                client = Client()
                await client.connect(url)
                for each in nonsense:
                    await client.publish("tailrace.ns.run.r", each)
                await client.close()
            await one.bus.publish([Published("r", 3)])
            await other.hears("r", 3)
            assert other.heard == [Published("r", 3, [])]
            assert other.bus.hearing


async def test_the_number_of_the_database_keeps_redis_users_apart(tmp_path: Path) -> None:
    """Redis sends what is published to every database; who writes another number means another place."""
    with valkey(tmp_path) as server:
        url = f"redis://127.0.0.1:{server.port}"
        buses = [
            LinkedBus(RedisWire(f"{url}/{number}", "ns"), Telemetry(), patience_seconds=PATIENCE_SECONDS)
            for number in (0, 0, 1)
        ]
        one, other, stranger = (Process(bus) for bus in buses)
        async with linking(buses[0]), linking(buses[1]), linking(buses[2]):
            await other.bus.subscribe("r")
            await stranger.bus.publish([Published("r", 9)])
            await one.bus.publish([Published("r", 1)])
            await other.hears("r", 1)
            assert other.seqs("r") == [1]


async def test_an_outage_is_told_once_and_an_end_of_it_too(tmp_path: Path, told: Told) -> None:
    """However many batches and attempts fall into it."""
    attempts = 0

    class CountingWire(RedisWire):
        async def connect(self, on_message: Callable[[bytes], None], on_loss: Callable[[], None]) -> RedisLink:
            nonlocal attempts
            attempts += 1
            return await super().connect(on_message, on_loss)

    with valkey(tmp_path) as server:
        bus = LinkedBus(
            CountingWire(f"redis://127.0.0.1:{server.port}", "ns"), Telemetry([told]), patience_seconds=PATIENCE_SECONDS
        )
        async with linking(bus):
            server.kill()
            await told.until(BusLost)
            for _ in range(20):
                with pytest.raises(BusUnavailable):
                    await bus.publish([Published("r", 1)])
            await until(lambda: attempts >= 5, "several attempts have failed")
            server.start()
            await until(lambda: bus.hearing, "the bus is linked again")
    assert [type(happening).__name__ for happening in told.all] == ["BusLost", "BusRestored"]


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [("redis://localhost", "redis.asyncio.connection", "redis"), ("nats://localhost", "nats.errors", "nats")],
)
async def test_a_missing_extra_is_named(
    url: str, module: str, extra: str, settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it."""
    monkeypatch.delitem(sys.modules, f"tailrace.bus.{extra}")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingsError, match=rf"pip install 'tailrace\[{extra}\]'"):
        async with run_roles(settings(bus_url=url), {}, ["api"]):
            pass


def test_an_address_has_no_credentials() -> None:
    """It stands in logs and errors."""
    assert address_of("redis://me:secret@host:6379/2?x=secret") == "redis://host:6379"
    assert address_of("nats://token@[::1]") == "nats://[::1]"


def test_a_query_that_redis_py_does_not_know_is_refused() -> None:
    """At start, not at the first message."""
    with pytest.raises(SettingsError, match="TAILRACE_BUS_URL"):
        RedisWire("redis://localhost/0?colour=blue", "ns")
