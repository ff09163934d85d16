"""``tailrace doctor``: what is wrong, and what is safe to do about it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated

import asyncpg
import httpx2
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tailrace.bus.bus import Bus
from tailrace.bus.choice import choose_bus
from tailrace.bus.linked import RETRY_SECONDS
from tailrace.cli.output import Json, print_json, run
from tailrace.cli.reach import api_key_of, own_api
from tailrace.client import checked_url
from tailrace.errors import DatabaseUnavailable, LocalPostgresError
from tailrace.opening import open_database
from tailrace.settings import Settings, load_settings
from tailrace.store.database import Database
from tailrace.store.doorbell import Doorbell
from tailrace.store.events import Events
from tailrace.store.health import Health
from tailrace.store.leases import Leases
from tailrace.telemetry import Telemetry
from tailrace.upkeep.canary import Canary, Walk
from tailrace.upkeep.doctor import Diagnosis, altered, examine, unreachable
from tailrace.upkeep.explain import explain
from tailrace.upkeep.finding import report
from tailrace.upkeep.runs import Bounds
from tailrace.upkeep.walk import conclude
from tailrace.worker.duties import Duty, perform
from tailrace.worker.signals import on_stop

ANSWER_SECONDS = 10.0
# A walk that takes longer than all its own waits together is given up, and the canary removed.
WALK_SECONDS = 45.0


def doctor(
    run_id: Annotated[
        str | None, typer.Argument(metavar="RUN_ID", help="Explain this run, and look at it alone.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="PUBLIC_URL", help="Walk the canary through the server or proxy at this root."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file", metavar="FILE", help="File with the key for --url; TAILRACE_API_KEY when left out."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Find what is wrong, and say what is safe to do about it.

    Looks at the database, the schema, the wake-ups, the bus, the outbox and the runs, and walks a run of its own, the
    canary, through all of them, which is then removed; nothing else is changed. Exit 1 when anything was found.
    """
    root = checked_url(url) if url is not None else None
    try:
        found, walked = run(_examine(load_settings(), run_id, root, api_key_of(api_key_file) if root else None))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None  # It was asked to stop, and has removed its canary.
    if json:
        print_json(report(found.findings))
    else:
        _print(found, walked)
    raise typer.Exit(1 if found.findings else 0)


async def _examine(settings: Settings, run_id: str | None, url: str | None, key: str | None) -> tuple[Diagnosis, Walk]:
    examining = asyncio.current_task()
    assert examining is not None  # noqa: S101 - it is run as one

    def stop(_: str) -> None:
        examining.cancel()

    walk = Walk(not_walked="the database takes no writes, or its tables are not those that this Tailrace needs")
    found = Diagnosis()
    try:
        with on_stop(stop, is_last=True):
            async with open_database(settings) as database, _lines(settings, database) as (doorbell, bus):
                bounds = Bounds(settings.stall_seconds, settings.lease_seconds, settings.worker_concurrency)
                bus_url = settings.bus_url.get_secret_value()
                found = await examine(database, doorbell, bus, bus_url=bus_url, bounds=bounds, run_id=run_id)
                if run_id is not None and url is None:
                    walk.not_walked = "only a run was asked for; leave its id out, or give --url"
                elif found.walkable:
                    try:
                        walk = await _walk(settings, database, doorbell, bus, url, key)
                    except asyncpg.PostgresError as error:
                        found.findings.append(altered(database, error))
                        return found, walk
                    # Our own API, where no URL was given, is another process to the doorbell.
                    found.findings += conclude(walk, url, others=doorbell.others > (url is None))
            return found, walk
    except (DatabaseUnavailable, LocalPostgresError) as error:
        found.findings.append(unreachable(error))
        return found, Walk(not_walked="the database is away")


async def _walk(
    settings: Settings, database: Database, doorbell: Doorbell, bus: Bus, url: str | None, key: str | None
) -> Walk:
    async with AsyncExitStack() as stack:
        if url is not None:
            headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
            http = httpx2.AsyncClient(base_url=url, headers=headers, timeout=ANSWER_SECONDS)
        else:
            root, transport = await stack.enter_async_context(own_api(_for_own_api(settings)))
            http = httpx2.AsyncClient(base_url=root, transport=transport, timeout=ANSWER_SECONDS)
        await stack.enter_async_context(http)
        canary = Canary(
            health=Health(database),
            events=Events(database),
            leases=Leases(database),
            doorbell=doorbell,
            bus=bus if bus.hearing and _has_bus(settings) else None,
            http=http,
        )
        try:
            async with asyncio.timeout(WALK_SECONDS):
                return await canary.walk()
        except TimeoutError:
            return Walk(not_walked=f"it was not over after {WALK_SECONDS:g} s")


def _has_bus(settings: Settings) -> bool:
    return settings.bus_url.get_secret_value() != "memory://"


def _for_own_api(settings: Settings) -> Settings:
    """Return the settings for the API of our own; the memory bus of another process cannot be heard, polling can."""
    changes = {} if _has_bus(settings) else {"bus_url": SecretStr("postgres://")}
    return settings.model_copy(update={"api_keys_file": None, "log_level": "error", **changes})


@asynccontextmanager
async def _lines(settings: Settings, database: Database) -> AsyncIterator[tuple[Doorbell, Bus]]:
    """Keep a doorbell and the bus going inside the block."""
    telemetry = Telemetry()
    doorbell = Doorbell(database, telemetry)
    bus, link_once = choose_bus(settings.bus_url.get_secret_value(), settings.db_schema, doorbell, telemetry)
    duties = [
        Duty("doorbell.listen", doorbell.listen_once, 0.05),
        Duty("doorbell.flush", doorbell.flush, 60.0, doorbell.waiting),
    ]
    if link_once is not None:
        duties.append(Duty("bus.link", link_once, RETRY_SECONDS))
    tasks = [asyncio.create_task(perform(duty, telemetry), name=duty.name) for duty in duties]
    try:
        yield doorbell, bus
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def _print(found: Diagnosis, walk: Walk) -> None:
    # Never narrower than what an id and its action need; a terminal wraps what is wider than itself.
    console = Console(file=sys.stdout, soft_wrap=False, width=None if sys.stdout.isatty() else 160, highlight=False)
    if found.figures is not None:
        _table(console, f"run {found.figures.run_id}", ("figure", "value", "meaning"), explain(found.figures))
    _print_walk(console, walk)
    if not found.findings:
        console.print("nothing found")
        return
    rows = [(str(f.code), f.severity, f.run_id or "", f.detail, f.action) for f in found.findings]
    _table(console, None, ("code", "severity", "run", "what was found", "what is safe to do"), rows)


def _print_walk(console: Console, walk: Walk) -> None:
    if walk.not_walked is not None:
        console.print(Text(f"the canary was not walked: {walk.not_walked}"))
        return
    rows = [
        ("append", _ms(walk.append_ms), "one event, one commit"),
        ("outbox", _ms(walk.outbox_ms), "from the commit to the mark, by the clock of Postgres"),
        ("bus", _ms(walk.bus_ms), "from the append to its news here"),
        ("stream", _ms(walk.sse_ms), "from the append to its arrival as a Server-Sent Event"),
    ]
    _table(console, "the canary's walk (medians)", ("hop", "took", "what it is"), rows)
    for note in walk.notes:
        console.print(Text(note))


def _ms(value: float | None) -> str:
    return "not made" if value is None else f"{value:.1f} ms"


def _table(console: Console, title: str | None, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(title=title, title_justify="left", show_lines=len(columns) > 3)  # noqa: PLR2004 - those with sentences
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Text, not markup: what agents and ids are named is not ours.
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
