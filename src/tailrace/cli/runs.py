"""``tailrace runs``: start, list, show, watch and cancel runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from tailrace.cli.numbers import whole
from tailrace.cli.output import Json, print_json, print_table, run
from tailrace.cli.reach import reach
from tailrace.client import Client
from tailrace.errors import InvalidInput, UsageError
from tailrace.http.views import RunList, RunView
from tailrace.model import strictjson
from tailrace.model.event import SEQ_MAX, Event
from tailrace.model.run import RunState

commands = typer.Typer(no_args_is_help=True)

Url = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="Root of a server, as http://127.0.0.1:8400; the database itself when left out."
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--api-key-file", metavar="FILE", help="File with the key for --url; TAILRACE_API_KEY when left out."),
]
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="Id of the run.")]


@commands.command()
def start(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Name of the agent.")],
    input: Annotated[
        str | None, typer.Option("--input", metavar="JSON", help="What the agent gets as run.input.")
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--run-id", metavar="RUN_ID", help="Id of the run; made up when left out.")
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key",
            metavar="KEY",
            help="However often it is sent, one key starts one run: send it again after doubt.",
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Print its events as they come, until it ends.")] = False,
    url: Url = None,
    api_key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Start a run, and print it."""
    value = _parse_input(input)

    async def work() -> None:
        async with reach(url, api_key_file) as client:
            found = await client.start(agent, value, run_id=run_id, idempotency_key=idempotency_key)
            if not watch:
                _print_run(found, json)
                return
            await _watch(client, found.run_id, 0, json)

    run(work())


@commands.command("list")
def list_runs(
    state: Annotated[
        RunState | None,
        typer.Option("--state", metavar="STATE", help=f"Only runs in this state: {', '.join(RunState)}."),
    ] = None,
    agent: Annotated[str | None, typer.Option("--agent", metavar="AGENT", help="Only runs of this agent.")] = None,
    limit: Annotated[int, typer.Option("--limit", parser=whole(1, 500), metavar="N", help="How many to print.")] = 50,
    cursor: Annotated[
        str | None, typer.Option("--cursor", metavar="CURSOR", help="Where the page before ended, as it said.")
    ] = None,
    url: Url = None,
    api_key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """List runs, newest first."""

    async def work() -> RunList:
        async with reach(url, api_key_file) as client:
            return await client.list(state=state, agent=agent, limit=limit, cursor=cursor)

    found = run(work())
    if json:
        print_json(found.model_dump(mode="json", by_alias=True))
        return
    rows = [
        (of.run_id, of.agent, of.state, of.last_seq, of.created_at.isoformat(timespec="seconds")) for of in found.runs
    ]
    print_table(("run", "agent", "state", "last seq", "created"), rows, empty="no runs")
    if found.next_cursor:
        typer.echo(f"more with --cursor {found.next_cursor}")


@commands.command()
def show(run_id: RunId, url: Url = None, api_key_file: KeyFile = None, json: Json = False) -> None:
    """Print a run: its state, input, output and positions."""

    async def work() -> RunView:
        async with reach(url, api_key_file) as client:
            return await client.get(run_id)

    _print_run(run(work()), json)


@commands.command()
def watch(
    run_id: RunId,
    from_seq: Annotated[
        int,
        typer.Option(
            "--from-seq",
            parser=whole(0, SEQ_MAX),
            metavar="SEQ",
            help="Seq of the last event already seen; those after it are printed.",
        ),
    ] = 0,
    url: Url = None,
    api_key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Print a run's events as they come, each once, until it ends.

    Reconnects by itself. Exit 0 however the run ended.
    """

    async def work() -> None:
        async with reach(url, api_key_file) as client:
            await _watch(client, run_id, from_seq, json)

    run(work())


@commands.command()
def cancel(run_id: RunId, url: Url = None, api_key_file: KeyFile = None, json: Json = False) -> None:
    """Ask for a run to be cancelled, and print it.

    One that is queued ends at once, another when its agent has let go: `tailrace runs watch` shows when. Exit 1 when it
    has ended already.
    """

    async def work() -> RunView:
        async with reach(url, api_key_file) as client:
            return await client.cancel(run_id)

    _print_run(run(work()), json)


async def _watch(client: Client, run_id: str, from_seq: int, json: bool) -> None:
    async for event in client.stream(run_id, from_seq=from_seq):
        typer.echo(event.to_json() if json else _line(event))


def _line(event: Event) -> str:
    moment = datetime.fromtimestamp(event.ts / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    data = orjson.dumps(event.data).decode() if event.data else ""
    return " ".join(
        part for part in (moment, f"{event.seq:>6}", f"{event.type:<12}", event.name, event.fn, data) if part
    )


def _parse_input(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return strictjson.parse(text.encode("utf-8", "surrogateescape"))
    except InvalidInput as error:
        raise UsageError(f'--input: {error}. Pass JSON, as in --input \'{{"path": "."}}\'') from error


def _print_run(found: RunView, json: bool) -> None:
    # As the API answers it: a run that has not failed has no `error`.
    document = found.model_dump(mode="json", by_alias=True, exclude={"error"} if found.error is None else None)
    if json:
        print_json(document)
        return
    width = max(len(name) for name in document)
    for name, value in document.items():
        if value is not None:
            typer.echo(f"{name:<{width}}  {value if isinstance(value, str) else orjson.dumps(value).decode()}")
