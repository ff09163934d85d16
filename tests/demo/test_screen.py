"""What is shown on a terminal, and where there is none."""

from __future__ import annotations

import io
import re
from typing import Any

from rich.console import Console

from tailrace.demo.screen import LINES_PER_NODE, Screen
from tailrace.demo.watching import Outcome
from tailrace.model.event import Event
from tailrace.model.run import RunState


def event(seq: int, kind: str, **fields: Any) -> Event:
    given = {"runId": "r", "seq": seq, "ts": 1000 + seq, "type": kind, "v": 1, "source": "outbox"}
    return Event.model_validate(given | fields)


def shown(*, terminal: bool, of: int = 200) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, highlight=False, color_system=None, _environ={})
    with Screen(console) as screen:
        screen.event(event(1, "RunStarted"))
        screen.event(event(2, "NodeStarted", name="Read"))
        for done in range(1, of + 1):
            file = f"\x1b]0;owned\x07{done}.txt"
            screen.event(event(2 + done, "Custom", name="Progress", data={"done": done, "of": of, "file": file}))
        screen.event(event(3 + of, "NodeFinished", name="Read"))
        screen.event(event(4 + of, "RunFinished"))
    screen.outcome(Outcome("r", RunState.FINISHED, 4 + of, 0, 0, 3, {}, None))
    return out.getvalue()


def test_a_pipe_gets_plain_lines_and_a_line_per_tenth() -> None:
    """No bar, no control characters, not even those of a file's name."""
    text = shown(terminal=False)
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)
    assert text.count("Progress") == LINES_PER_NODE
    assert text.startswith("     1    0.000 s  RunStarted\n     2    0.001 s  NodeStarted   Read\n")
    assert "    22    0.021 s  Custom        Progress 20/200 ?]0;owned?20.txt\n" in text
    assert text.endswith("Run r finished: events seen 204, lost 0, twice 0\n")


def test_a_terminal_gets_a_bar_that_is_gone_in_the_end() -> None:
    """Progress moves the bar and is no line; a file's name cannot command the terminal."""
    text = shown(terminal=True)
    assert "Progress" not in text
    assert "━" in text
    assert "\x1b]0;" not in text
    assert text.index("━") > text.index("RunStarted")
    assert text.rpartition("\x1b[2K")[2].endswith("\rRun r finished: events seen 204, lost 0, twice 0\n")
    assert "━" not in text.rpartition("\x1b[2K")[2]


def test_a_console_that_speaks_ascii_alone_is_served() -> None:
    """LANG=C in a pipe."""
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="ascii", errors="strict")
    Screen(Console(file=out)).event(event(1, "NodeStarted", name="Ärger"))
    out.flush()
    assert written.getvalue().endswith(b"NodeStarted   ?rger\n")
