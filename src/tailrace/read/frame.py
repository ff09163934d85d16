"""Server-Sent Events framing (WHATWG HTML 9.2).  Pure: no I/O, no clock.

Lines end in LF alone: clients of agent protocols split on a blank line made of two LF and see nothing with CRLF.
Only a frame that carries an event carries an ``id``, because a browser takes over the id of every block it reads.
There is no ``event`` field, so ``EventSource.onmessage`` sees every type (docs/adr/0007).
"""

from __future__ import annotations

from typing import NamedTuple

from tailrace.model.event import TERMINAL_TYPES, StoredEvent, encode

PING = b": ping\n\n"


class Frame(NamedTuple):
    """One event as it goes over the wire."""

    seq: int
    terminal: bool
    text: bytes


def frame(event: StoredEvent) -> Frame:
    """Return the frame of an event; it is made once and shared by all who watch the run."""
    text = b"id: %d\ndata: %b\n\n" % (event.seq, encode(event))
    return Frame(event.seq, event.type in TERMINAL_TYPES, text)


def retry(milliseconds: int) -> bytes:
    """Return the block that tells an ``EventSource`` how long to wait before it reconnects."""
    return b"retry: %d\n\n" % milliseconds
