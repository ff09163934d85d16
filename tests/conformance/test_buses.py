"""What every bus does, asked of each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest

from tailrace.bus.bus import Published
from tailrace.bus.linked import LinkedBus
from tailrace.bus.message import MESSAGE_MAX_BYTES
from tailrace.errors import BusUnavailable
from tailrace.model.event import StoredEvent
from tailrace.settings import Settings
from tests.conformance.media import (
    ALONE,
    BETWEEN_PROCESSES,
    CONNECTED,
    IN_TWO_HALVES,
    MEDIA,
    OWN_PROCESS_FIRST,
    WITH_A_SERVER,
    Medium,
    Process,
)
from tests.patience import PATIENCE_SECONDS
from tests.read_support import event, until


@pytest.fixture(params=MEDIA)
async def medium(request: pytest.FixtureRequest, settings: Callable[..., Settings]) -> AsyncIterator[Medium]:
    async with MEDIA[request.param](settings()) as made:
        yield made


def batch_of(run_id: str, first: int, last: int) -> Published:
    return Published(run_id, last, [event(run_id, seq) for seq in range(first, last + 1)])


async def fence(publisher: Process, hearer: Process) -> None:
    """Return once ``hearer`` has heard everything that ``publisher`` has published before."""
    await hearer.bus.subscribe("fence")
    await publisher.bus.publish([Published("fence", 1)])
    await hearer.hears("fence", 1)


async def test_what_is_published_after_the_acknowledgement_is_heard(medium: Medium) -> None:
    """`subscribe` returns only when nothing published from then on can be missed: published at once, every time."""
    publisher, hearer = await medium.pair()
    for turn in range(30):
        run_id = f"run-{turn}"
        await hearer.bus.subscribe(run_id)
        await publisher.bus.publish([batch_of(run_id, 1, 1)])
    for turn in range(30):
        await hearer.hears(f"run-{turn}", 1)


async def test_a_run_is_heard_in_order(medium: Medium) -> None:
    """Heads may be merged into a later one, but never step back, and events that are carried are in order."""
    publisher, hearer = await medium.pair()
    await hearer.bus.subscribe("r")
    for seq in range(1, 101):
        await publisher.bus.publish([batch_of("r", seq, seq)])
    await hearer.hears("r", 100)
    assert hearer.seqs("r") == sorted(set(hearer.seqs("r")))
    carried = [each.seq for published in hearer.heard for each in published.events]
    assert carried == sorted(set(carried))


async def test_a_run_that_is_not_subscribed_is_not_heard(medium: Medium) -> None:
    """Others' runs cost this process nothing above the bus."""
    publisher, hearer = await medium.pair()
    await publisher.bus.publish([batch_of("other", 1, 3)])
    await fence(publisher, hearer)
    assert {published.run_id for published in hearer.heard} == {"fence"}


async def test_a_run_is_heard_no_more_after_unsubscribe(medium: Medium) -> None:
    """And again after a second subscribe."""
    publisher, hearer = await medium.pair()
    await hearer.bus.subscribe("r")
    await publisher.bus.publish([batch_of("r", 1, 1)])
    await hearer.hears("r", 1)
    await hearer.bus.unsubscribe("r")
    await publisher.bus.publish([batch_of("r", 2, 2)])
    await fence(publisher, hearer)
    assert hearer.seqs("r") == [1]
    await hearer.bus.subscribe("r")
    await publisher.bus.publish([batch_of("r", 3, 3)])
    await hearer.hears("r", 3)


async def test_unsubscribing_what_was_never_subscribed_does_nothing(medium: Medium) -> None:
    """A stream that fails half-way through attaching cleans up without a second error."""
    publisher, hearer = await medium.pair()
    await hearer.bus.unsubscribe("never")
    await fence(publisher, hearer)


async def test_many_runs_in_one_batch_are_all_heard(medium: Medium) -> None:
    """A batch larger than any one message of any bus: 1,000 runs with the longest ids there are."""
    publisher, hearer = await medium.pair()
    run_ids = [f"{number:0>4}".ljust(128, "x") for number in range(1000)]
    for run_id in run_ids:
        await hearer.bus.subscribe(run_id)
    await publisher.bus.publish([batch_of(run_id, 1, 2) for run_id in run_ids])
    for run_id in run_ids:
        await hearer.hears(run_id, 2)


async def test_a_batch_of_many_large_events_is_heard(medium: Medium) -> None:
    """200 events of 64 KiB each, the most that an outbox pass hands over for one run and the largest there are."""
    publisher, hearer = await medium.pair()
    await hearer.bus.subscribe("r")
    data = '{"text":"' + "x" * 65_000 + '"}'
    await publisher.bus.publish([Published("r", 200, [event("r", seq)._replace(data=data) for seq in range(1, 201)])])
    await hearer.hears("r", 200)


@pytest.mark.parametrize("medium", BETWEEN_PROCESSES, indirect=True)
async def test_every_other_process_hears_a_run(medium: Medium) -> None:
    """Streams of one run may be spread over any number of processes; each must hear."""
    publisher, first = await medium.pair()
    second = await medium.new_process()
    for hearer in (first, second):
        await hearer.bus.subscribe("r")
    await publisher.bus.publish([batch_of("r", 1, 7)])
    await first.hears("r", 7)
    await second.hears("r", 7)


@pytest.mark.parametrize("medium", BETWEEN_PROCESSES, indirect=True)
async def test_both_ways_between_two_processes(medium: Medium) -> None:
    """Any process may hold the outbox; each hears what the other publishes."""
    one, other = await medium.pair()
    await one.bus.subscribe("to-one")
    await other.bus.subscribe("to-other")
    await one.bus.publish([Published("to-other", 4)])
    await other.bus.publish([Published("to-one", 5)])
    await other.hears("to-other", 4)
    await one.hears("to-one", 5)


@pytest.mark.parametrize("medium", OWN_PROCESS_FIRST, indirect=True)
async def test_the_own_process_is_handed_the_events_directly(medium: Medium) -> None:
    """When `publish` returns, its own process has the events themselves, whatever the bus outside does."""
    process = await medium.new_process()
    await process.bus.subscribe("r")
    await process.bus.publish([batch_of("r", 1, 3)])
    assert process.heard == [batch_of("r", 1, 3)]


@pytest.mark.parametrize("medium", IN_TWO_HALVES, indirect=True)
async def test_the_own_process_hears_once(medium: Medium) -> None:
    """What was handed over directly does not come back through the bus as well."""
    process, other = await medium.pair()
    for each in (process, other):
        await each.bus.subscribe("r")
    await process.bus.publish([batch_of("r", 1, 3)])
    await other.hears("r", 3)
    await fence(other, process)  # The notification has come back to this process before the other's.
    assert process.seqs("r") == [3]


async def test_a_bus_that_is_there_passes_its_check(medium: Medium) -> None:
    """`check` raises only for a reason."""
    process = await medium.new_process()
    await process.bus.check()


@pytest.mark.parametrize("medium", CONNECTED, indirect=True)
async def test_a_loss_is_announced_and_delivery_goes_on(medium: Medium) -> None:
    """After the receiving connection broke, each process is told to look at the database, and hears again."""
    publisher, hearer = await medium.pair()
    await hearer.bus.subscribe("r")
    await publisher.bus.publish([batch_of("r", 1, 1)])
    await hearer.hears("r", 1)
    before = publisher.losses, hearer.losses
    assert medium.break_connections is not None
    assert await medium.break_connections() >= 2
    with suppress(BusUnavailable):
        await publisher.bus.publish([batch_of("r", 2, 2)])
    await publisher.loses(before[0] + 1)
    await hearer.loses(before[1] + 1)
    await until(lambda: publisher.bus.hearing and hearer.bus.hearing, "both are there again")
    await publisher.bus.publish([batch_of("r", 3, 3)])
    await hearer.hears("r", 3)
    await hearer.bus.check()


@pytest.mark.parametrize("medium", ALONE, indirect=True)
async def test_what_one_publishes_oneself_is_not_heard_again(medium: Medium) -> None:
    """Whoever publishes has served its own streams already."""
    one, other = await medium.pair()
    for each in (one, other):
        await each.bus.subscribe("r")
    await one.bus.publish([batch_of("r", 1, 3)])
    await other.hears("r", 3)
    await fence(other, one)
    assert one.seqs("r") == []


@pytest.mark.parametrize("medium", BETWEEN_PROCESSES, indirect=True)
async def test_run_ids_that_look_like_paths_are_kept_apart(medium: Medium) -> None:
    """A dot divides subjects in NATS, and colons divide Redis's channels by habit: here neither means anything."""
    publisher, hearer = await medium.pair()
    run_ids = ["a", "a.b", "a:b", "a-b", "a.b.c", "a..b", "a.", "a_"]
    for run_id in run_ids[1:]:
        await hearer.bus.subscribe(run_id)
    await publisher.bus.publish([batch_of(run_id, 1, number) for number, run_id in enumerate(run_ids, 1)])
    for number, run_id in enumerate(run_ids[1:], 2):
        await hearer.hears(run_id, number)
        assert hearer.seqs(run_id) == [number]
    assert hearer.seqs("a") == []


@pytest.mark.parametrize("medium", WITH_A_SERVER, indirect=True)
async def test_small_events_are_carried_as_they_are_stored(medium: Medium) -> None:
    """Every field, and the data as the very text: no number and no key order changes on the way."""
    publisher, hearer = await medium.pair()
    await hearer.bus.subscribe("r")
    sent = Published(
        "r",
        3,
        [
            StoredEvent("r", 1, 5, "RunStarted", None, None, None),
            StoredEvent("r", 2, 6, "Custom", "Ünïcode \u2028", None, '{"b":1.0,"a":1e2,"b":12345678901234567890}'),
            StoredEvent("r", 3, 7, "RunFailed", None, "ValueError", '{"message":"no\\n"}'),
        ],
    )
    await publisher.bus.publish([sent])
    await hearer.hears("r", 3)
    assert hearer.heard == [sent]


@pytest.mark.parametrize("medium", WITH_A_SERVER, indirect=True)
async def test_events_over_the_bound_go_as_news_alone(medium: Medium) -> None:
    """64 KiB a message: what is larger is read from the database by those who want it, and holds nothing up."""
    publisher, hearer = await medium.pair()
    await hearer.bus.subscribe("r")
    large = event("r", 1)._replace(data='{"text":"' + "x" * MESSAGE_MAX_BYTES + '"}')
    await publisher.bus.publish([Published("r", 1, [large]), batch_of("r", 2, 2)])
    await hearer.hears("r", 2)
    assert hearer.heard == [Published("r", 1, []), batch_of("r", 2, 2)]


@pytest.mark.parametrize("medium", WITH_A_SERVER, indirect=True)
async def test_two_deployments_share_a_server_and_not_their_runs(medium: Medium) -> None:
    """Each schema is a namespace of its own."""
    publisher, hearer = await medium.pair()
    assert medium.namespaced is not None
    stranger = await medium.namespaced("elsewhere")
    await hearer.bus.subscribe("r")
    await stranger.bus.publish([batch_of("r", 1, 9)])
    await publisher.bus.publish([batch_of("r", 1, 1)])
    await hearer.hears("r", 1)
    assert hearer.seqs("r") == [1]


@pytest.mark.parametrize("medium", WITH_A_SERVER, indirect=True)
async def test_a_server_that_is_killed_and_started_again_is_used_again(medium: Medium) -> None:
    """While it is away publishing fails at once, watching begins all the same, and what came before is still heard."""
    publisher, hearer = await medium.pair()
    assert medium.server is not None
    await hearer.bus.subscribe("old")
    before = hearer.losses
    medium.server.kill()
    await until(lambda: not publisher.bus.hearing and not hearer.bus.hearing, "both notice")
    for _ in range(100):
        with pytest.raises(BusUnavailable, match="away"):
            await publisher.bus.publish([batch_of("old", 1, 1)])
    with pytest.raises(BusUnavailable, match="away"):
        await hearer.bus.check()
    await hearer.bus.subscribe("new")
    await hearer.bus.unsubscribe("never")
    assert hearer.losses == before
    medium.server.start()
    await until(lambda: publisher.bus.hearing and hearer.bus.hearing, "both are there again")
    assert hearer.losses == before + 1
    await publisher.bus.publish([batch_of("old", 2, 2), batch_of("new", 1, 3)])
    await hearer.hears("old", 2)
    await hearer.hears("new", 3)
    await hearer.bus.check()


@pytest.mark.parametrize("medium", WITH_A_SERVER, indirect=True)
async def test_a_server_that_answers_nothing_is_waited_for_once(medium: Medium) -> None:
    """A frozen server and a half-open connection look healthy: the first question finds out, the others do not wait."""
    publisher, hearer = await medium.pair()
    assert medium.proxy is not None
    await hearer.bus.subscribe("r")
    medium.proxy.silence()
    for bus in (publisher.bus, hearer.bus):
        assert isinstance(bus, LinkedBus)
        bus._patience_seconds = 0.1
    with pytest.raises(BusUnavailable, match=r"no answer within 0\.1 s"):
        await publisher.bus.publish([batch_of("r", 1, 1)])
    assert not publisher.bus.hearing
    for _ in range(100):
        with pytest.raises(BusUnavailable):
            await publisher.bus.publish([batch_of("r", 1, 1)])
    with pytest.raises(BusUnavailable):
        await hearer.bus.check()
    medium.proxy.restore()
    medium.proxy.cut()
    for bus in (publisher.bus, hearer.bus):
        assert isinstance(bus, LinkedBus)
        bus._patience_seconds = PATIENCE_SECONDS
    await until(lambda: publisher.bus.hearing and hearer.bus.hearing, "both are there again")
    await publisher.bus.publish([batch_of("r", 2, 2)])
    await hearer.hears("r", 2)


@pytest.mark.parametrize("medium", WITH_A_SERVER, indirect=True)
async def test_watchers_that_come_and_go_while_a_link_is_made_are_all_subscribed(medium: Medium) -> None:
    """Nobody who attaches in the middle of a reconnection is forgotten."""
    publisher, hearer = await medium.pair()
    for turn in range(5):
        before = publisher.losses, hearer.losses
        assert medium.break_connections is not None
        await medium.break_connections()
        for number in range(20):
            await hearer.bus.subscribe(f"{turn}-{number}")
            await hearer.bus.unsubscribe(f"{turn}-{number - 1}")
        # Until then either may still take its link for whole.
        await publisher.loses(before[0] + 1)
        await hearer.loses(before[1] + 1)
        await until(lambda: publisher.bus.hearing and hearer.bus.hearing, "both are there again")
        await publisher.bus.publish([batch_of(f"{turn}-{number}", 1, 1) for number in range(20)])
        await hearer.hears(f"{turn}-19", 1)
        assert {published.run_id for published in hearer.heard} == {f"{each}-19" for each in range(turn + 1)}


@pytest.mark.parametrize("medium", WITH_A_SERVER, indirect=True)
async def test_a_client_that_vanishes_while_it_attaches_costs_the_others_nothing(medium: Medium) -> None:
    """Its run is not heard, and the link that all streams of the process share stays."""
    publisher, hearer = await medium.pair()
    assert medium.proxy is not None
    for bus in (publisher.bus, hearer.bus):
        assert isinstance(bus, LinkedBus)
        bus._patience_seconds = PATIENCE_SECONDS
    await hearer.bus.subscribe("kept")
    before = hearer.losses
    medium.proxy.silence()
    vanishing = asyncio.create_task(hearer.bus.subscribe("given-up"))
    await asyncio.sleep(0)
    vanishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await vanishing
    medium.proxy.restore()
    await publisher.bus.publish([batch_of("given-up", 1, 1), batch_of("kept", 1, 2)])
    await hearer.hears("kept", 2)
    assert hearer.seqs("given-up") == []
    assert hearer.losses == before
    await hearer.bus.check()
