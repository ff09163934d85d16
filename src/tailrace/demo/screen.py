"""What a person sees: events as lines, a bar for the node at work, and the proof in the last line.

Where there is no terminal the bar is left out and progress is a line per tenth, so that a file or a pipe gets plain
lines.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from tailrace.demo.watching import Cut, Outcome
from tailrace.model.event import Event, EventType

LINES_PER_NODE = 10
_STYLES = {
    EventType.RUN_STARTED: "bold",
    EventType.NODE_STARTED: "cyan",
    EventType.NODE_FINISHED: "green",
    EventType.RUN_FINISHED: "bold green",
    EventType.RUN_FAILED: "bold red",
    EventType.RUN_CANCELLED: "bold yellow",
}


class Screen:
    """Shows one run on a console, inside a ``with`` block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}", markup=False, style="cyan"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn(
                "{task.fields[file]}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
            ),
            console=console,
            transient=True,
            expand=True,
            disable=not console.is_interactive,
        )
        self._task: TaskID | None = None
        self._began_ms: int | None = None
        self._tenth = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self._line("Stopped before the end of the run", style="bold yellow")

    def starting(self, folder: Path, *, embedded: bool) -> None:
        """Say what is about to happen; the first start of the embedded Postgres takes some seconds."""
        database = "the embedded Postgres" if embedded else "Postgres"
        self._line(f"Digesting {folder}")
        self._line(f"Starting {database}, a worker, the outbox and an HTTP server in this process")

    def event(self, event: Event) -> None:
        """Show one event: progress as the bar, every other as a line."""
        if self._began_ms is None:
            self._began_ms = event.ts
        if event.type == EventType.CUSTOM and event.name == "Progress":
            self._progress(event)
            return
        if event.type == EventType.NODE_STARTED:
            self._tenth = 0
            self._clear_bar()
            self._task = self._bar.add_task(self._printable(event.name), total=None, file="")
        if event.is_terminal:
            self._clear_bar()
        self._event_line(event, event.name or event.fn, style=_STYLES.get(event.type, ""))

    def cut(self, cut: Cut) -> None:
        """Say that the stream was cut and is resumed."""
        self._line(
            f"----- connection cut after seq {cut.seq}; {cut.missed} more events were written meanwhile; "
            f"resuming from seq {cut.seq} -----",
            style="bold magenta",
        )

    def outcome(self, outcome: Outcome) -> None:
        """Say what came of it; the last line is the proof."""
        if outcome.error is not None:
            self._line(f"The run failed: {outcome.error}", style="red")
        if report := outcome.output.get("report"):
            counted = ", ".join(f"{outcome.output[name]:,} {name}" for name in ("files", "lines", "words"))
            self._line(f"Digested {counted}")
            self._line(f"Report: {report}")
        self._line(
            f"Run {outcome.run_id} {outcome.state}: events seen {outcome.events}, lost {outcome.lost}, "
            f"twice {outcome.twice}",
            style="bold green" if outcome.proven else "bold red",
        )

    def _progress(self, event: Event) -> None:
        done, of, file = event.data.get("done", 0), event.data.get("of", 0), str(event.data.get("file", ""))
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=of, file=self._printable(file))
        tenth = done * LINES_PER_NODE // max(1, of)
        if self._bar.disable and tenth > self._tenth:
            self._event_line(event, f"{event.name} {done}/{of} {file}")
        self._tenth = tenth

    def _clear_bar(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def _event_line(self, event: Event, what: str, *, style: str = "") -> None:
        seconds = (event.ts - (self._began_ms or event.ts)) / 1000
        self._line(f"{event.seq:>6} {seconds:>8.3f} s  {event.type:<12}  {what}", style=style)

    def _line(self, text: str, *, style: str = "") -> None:
        self._console.print(Text(self._printable(text.rstrip()), style=style), soft_wrap=True)

    def _printable(self, text: str) -> str:
        """Return text that does to no terminal anything but be read: file names may hold control characters."""
        shown = "".join(character if character.isprintable() else "?" for character in text)
        return shown.encode(self._console.encoding, "replace").decode(self._console.encoding, "replace")
