"""``tailrace demo``: the whole pipeline in this process, one run of ``digest``, and the proof that nothing was lost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import orjson
from rich.console import Console

from tailrace.app import App
from tailrace.client import Client
from tailrace.demo.digest import digest
from tailrace.demo.files import checked_folder
from tailrace.demo.screen import Screen
from tailrace.demo.serving import serving
from tailrace.demo.watching import Cut, Outcome, end, watch
from tailrace.model.event import Event
from tailrace.model.run import TERMINAL_STATES
from tailrace.settings import Settings

EXIT_PROVEN, EXIT_NOT_PROVEN = 0, 1


async def run_demo(folder: Path, *, json_output: bool, settings: Settings) -> int:
    """Digest ``folder`` in a run, show its events, and return the exit code.

    :param json_output: print one JSON document on stdout, and nothing else there.
    :param settings: of the App; its log level is ``error`` unless it was set.
    :returns: 0 when the run finished and each of its events arrived exactly once, else 1.
    :raises UsageError: there is no such folder; nothing was started.
    :raises TailraceError: the pipeline could not be started, as for ``App.lifespan``.
    """
    folder = checked_folder(folder)
    # Its server is its own, on loopback, for a moment: the keys are for those of others.
    settings = settings.model_copy(update={"api_keys_file": None})
    if "log_level" not in settings.model_fields_set:
        settings = settings.model_copy(update={"log_level": "error"})
    if json_output:
        outcome = await _run(folder, settings, Console(stderr=True, quiet=True))
        sys.stdout.write(document(outcome) + "\n")
        sys.stdout.flush()
        if outcome.error is not None:
            sys.stderr.write(f"the run failed: {outcome.error}\n")
    else:
        outcome = await _run(folder, settings, Console(highlight=False))
    return EXIT_PROVEN if outcome.proven else EXIT_NOT_PROVEN


def document(outcome: Outcome) -> str:
    """Return what ``--json`` prints."""
    return orjson.dumps(
        {
            "runId": outcome.run_id,
            "state": outcome.state,
            "events": outcome.events,
            "lost": outcome.lost,
            "twice": outcome.twice,
            "resumedFrom": outcome.resumed_from,
            "report": outcome.output.get("report"),
        }
    ).decode()


async def _run(folder: Path, settings: Settings, console: Console) -> Outcome:
    app = App(settings)
    app.agent("digest")(digest)
    screen = Screen(console)
    screen.starting(folder, embedded=settings.database_url is None)
    async with serving(app) as url, Client(url) as client:
        with screen:
            outcome = await _watch(client, folder, on_event=screen.event, on_cut=screen.cut)
        screen.outcome(outcome)
    return outcome


async def _watch(
    client: Client, folder: Path, *, on_event: Callable[[Event], None], on_cut: Callable[[Cut], None]
) -> Outcome:
    run = await client.start("digest", {"path": str(folder)})
    try:
        outcome = await watch(client, run.run_id, on_event=on_event, on_cut=on_cut)
    except BaseException:
        await end(client, run.run_id)  # Ctrl-C, for one: a run that nobody waits for is not left behind.
        raise
    if outcome.state not in TERMINAL_STATES:
        await end(client, run.run_id)
    return outcome
