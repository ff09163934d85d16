"""What is particular to the doorbell over Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tailrace.bus import postgres as bus_module
from tailrace.bus.bus import Published
from tailrace.bus.postgres import PostgresBus
from tailrace.errors import BusUnavailable
from tailrace.settings import Settings
from tailrace.store import doorbell as module
from tailrace.store.database import Database
from tailrace.store.doorbell import PENDING_MAX, Doorbell, Ring
from tailrace.telemetry import BusLost, BusRestored, Happening, Telemetry, WakeupsLost, WakeupsRestored
from tests.conformance.media import opened, postgres
from tests.patience import PATIENCE_SECONDS, tried_again
from tests.read_support import until


async def test_more_runs_than_it_remembers_are_announced_as_a_loss(settings: Callable[..., Settings]) -> None:
    """Past 10,000 rings the doorbell forgets which, and says so: listeners look at everything instead."""
    async with postgres(settings()) as medium:
        publisher, hearer = await medium.pair()
        await hearer.bus.subscribe("run-0")
        before = hearer.losses
        await publisher.bus.publish([Published(f"run-{number}", 1) for number in range(PENDING_MAX + 1)])
        await hearer.loses(before + 1)


async def test_publishing_without_the_database_says_that_the_bus_is_away(database: Database) -> None:
    """The outbox must know that nobody was told, and nothing that was queued is forgotten."""
    doorbell = Doorbell(database, Telemetry())
    bus = PostgresBus(doorbell)
    await database.close()
    with pytest.raises(BusUnavailable, match="postgres://"):
        await bus.publish([Published("r", 3)])
    await tried_again(database.open)
    assert await doorbell.flush(), "what could not be sent must stay queued"


async def test_a_notify_that_hangs_is_waited_for_once(
    database: Database, telemetry: Telemetry, happenings: list[Happening], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outbox holds row locks meanwhile; its rings stay queued for the doorbell's own flush, and it is told once."""
    monkeypatch.setattr(bus_module, "RETRY_SECONDS", 3600.0)
    doorbell = Doorbell(database, telemetry)
    bus = PostgresBus(doorbell, patience_seconds=0.01)
    hung = 0

    async def hang() -> bool:
        nonlocal hung
        hung += 1
        await asyncio.Event().wait()
        return True

    with monkeypatch.context() as patch:
        patch.setattr(doorbell, "flush", hang)
        for seq in range(1, 20):
            with pytest.raises(BusUnavailable, match=r"NOTIFY took longer than 0\.01 s"):
                await bus.publish([Published("r", seq)])
    assert hung == 1
    assert [type(happening) for happening in happenings] == [BusLost]
    assert await doorbell.flush(), "what was not sent must stay queued"
    bus._again_at, bus._patience_seconds = 0.0, PATIENCE_SECONDS
    await bus.publish([Published("r", 20)])
    assert [type(happening) for happening in happenings] == [BusLost, BusRestored]


async def test_without_a_listening_connection_the_check_fails(database: Database) -> None:
    """`/readyz` must not call a process ready that hears nothing."""
    with pytest.raises(BusUnavailable, match="LISTEN"):
        await PostgresBus(Doorbell(database, Telemetry())).check()


async def test_many_announcements_of_a_run_become_one(database: Database, settings: Callable[..., Settings]) -> None:
    """Between two flushes a run costs one line, with the highest seq, in whatever order they were made."""
    async with postgres(settings()) as medium:
        hearer = await medium.new_process()
        await hearer.bus.subscribe("r")
        doorbell = Doorbell(database, Telemetry())
        for seq in (5, 9, 7):
            doorbell.announce("r", seq)
        await doorbell.flush()
        await hearer.hears("r", 9)
        assert hearer.seqs("r") == [9]


async def test_rings_of_a_newer_version_are_passed_over(database: Database, settings: Callable[..., Settings]) -> None:
    """A rolling upgrade mixes versions: an unknown ring, or one that cannot be read, costs no other."""
    async with postgres(settings()) as medium:
        hearer = await medium.new_process()
        await hearer.bus.subscribe("r")
        for payload in (
            "someone\nunheard-of x\npublished r 4",
            "",
            "\n",
            "someone\npublished",
            "someone\npublished r x\npublished r 6",
        ):
            async with database.connection() as connection:
                await connection.execute("select pg_notify($1, $2)", f"tailrace_{database.schema}", payload)
        publisher = await medium.new_process()
        await publisher.bus.publish([Published("r", 7)])
        await hearer.hears("r", 7)
        assert hearer.seqs("r") == [4, 6, 7]


async def test_a_broken_connection_is_told_and_its_return_too(
    database: Database, telemetry: Telemetry, happenings: list[Happening], settings: Callable[..., Settings]
) -> None:
    """Operators see `wakeups lost` and `wakeups restored`, once each."""
    doorbell = Doorbell(database, telemetry)
    rung: list[str] = []
    doorbell.on(Ring.JOBS, rung.append)
    listening = asyncio.create_task(doorbell.listen_once())
    await until(lambda: doorbell.hearing, "it hears")
    async with database.connection() as connection:
        await connection.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and query ilike $1 and pid <> pg_backend_pid()",
            f"listen%tailrace_{database.schema}%",
        )
    assert await listening
    assert not doorbell.listening
    again = asyncio.create_task(doorbell.listen_once())
    await until(lambda: doorbell.hearing, "it hears again")
    other = Doorbell(await opened(settings()), Telemetry())
    other.ring(Ring.JOBS)
    await other.flush()
    await until(lambda: rung == [""], "it hears again")
    again.cancel()
    await asyncio.wait({again})
    await other._database.close()
    assert [type(happening) for happening in happenings] == [WakeupsLost, WakeupsRestored]


async def test_a_subscriber_of_another_schema_hears_nothing(
    database: Database, settings: Callable[..., Settings]
) -> None:
    """Two Tailraces in one database, each with its schema, do not wake each other."""
    async with postgres(settings()) as medium, postgres(settings(db_schema="elsewhere")) as other_medium:
        hearer, publisher = await medium.new_process(), await medium.new_process()
        stranger = await other_medium.new_process()
        await hearer.bus.subscribe("r")
        await stranger.bus.publish([Published("r", 9)])
        await publisher.bus.publish([Published("r", 1)])
        await hearer.hears("r", 1)
        assert hearer.seqs("r") == [1]


async def test_a_process_that_is_alone_rings_nobody_and_a_newcomer_is_told_to_look(
    database: Database, settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch would cost a notification for nobody; whoever comes has not heard what was not rung."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    first, second = Doorbell(database, Telemetry()), Doorbell(await opened(settings()), Telemetry())
    told_to_look: list[int] = []
    rung: list[str] = []
    second.on_restored(lambda: told_to_look.append(1))
    second.on(Ring.EVENTS, rung.append)
    async with asyncio.TaskGroup() as tasks:
        listening = [tasks.create_task(first.listen_once())]
        await until(lambda: first.alone, "it knows that it is alone")
        first.ring(Ring.EVENTS, "r")
        assert not await first.flush()
        listening.append(tasks.create_task(second.listen_once()))
        await until(lambda: not first.alone, "it has heard of the other one")
        await first.flush()
        await until(lambda: len(told_to_look) == 2, "the newcomer has looked at its start and when told to")
        first.ring(Ring.EVENTS, "s")
        await first.flush()
        await until(lambda: rung == ["s"], "the other one is rung")
        await second.flush()
        assert not second.alone
        for task in listening:
            task.cancel()
    await second._database.close()
