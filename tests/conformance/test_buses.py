"""What every bus does, asked of each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tailrace.bus.bus import Published
from tailrace.settings import Settings
from tests.conformance.media import (
    BETWEEN_PROCESSES,
    CONNECTED,
    IN_TWO_HALVES,
    MEDIA,
    OWN_PROCESS_FIRST,
    Medium,
    Process,
)
from tests.read_support import event


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
    before = hearer.losses
    assert medium.break_connections is not None
    assert await medium.break_connections() >= 2
    await publisher.bus.publish([batch_of("r", 2, 2)])
    await hearer.loses(before + 1)
    await publisher.bus.publish([batch_of("r", 3, 3)])
    await hearer.hears("r", 3)
    await hearer.bus.check()
