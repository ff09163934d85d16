"""Server-Sent Events framing (WHATWG HTML 9.2).  Pure: no I/O, no clock.

Lines end in LF alone: clients of agent protocols split on a blank line made of two LF and see nothing with CRLF.
Only a frame that carries an event carries an ``id``, because a browser takes over the id of every block it reads.
There is no ``event`` field, so ``EventSource.onmessage`` sees every type (docs/adr/0007).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from tailrace.model.event import TERMINAL_TYPES, StoredEvent, encode

PING = b": ping\n\n"
# One write: large enough to cost little per event, small enough that a slow reader holds little.  A larger event is a
# chunk of its own.
CHUNK_MAX_FRAMES = 512
CHUNK_MAX_BYTES = 64 * 2**10
_TYPE = re.compile(rb'id: \d+\ndata: \{"runId":"[^"]*","seq":\d+,"ts":-?\d+,"type":"(\w+)"')


class Frame(NamedTuple):
    """One event as it goes over the wire."""

    seq: int
    terminal: bool
    text: bytes


def frame(event: StoredEvent) -> Frame:
    """Return the frame of an event; it is made once and shared by all who watch the run."""
    text = b"id: %d\ndata: %b\n\n" % (event.seq, encode(event))
    return Frame(event.seq, event.type in TERMINAL_TYPES, text)


class Chunk(NamedTuple):
    """Bytes to write at once; ``last_seq`` and ``terminal`` are those of the last event in them or before them."""

    text: bytes
    last_seq: int
    terminal: bool


def joined(frames: Sequence[Frame]) -> Chunk:
    """Return the first of these frames as one chunk: at least one, and no more than fit its bounds."""
    size = end = 0
    for each in frames[:CHUNK_MAX_FRAMES]:
        size += len(each.text)
        if size > CHUNK_MAX_BYTES and end:
            break
        end += 1
    last = frames[end - 1]
    return Chunk(b"".join([each.text for each in frames[:end]]), last.seq, last.terminal)


# What ``events_frames.sql`` puts between frames, between the two places of a seq, and instead of a kind.  In JSON these
# bytes are always escaped.
NEXT, SEQ, KIND = b"\x01", b"\x02", b"\x03"


def written_out(short: bytes, run_id: str, kind: bytes) -> bytes:
    """Return the frames, as ``frame`` makes them, that ``short`` holds what is particular to."""
    return (
        (b"id: %b}\n\n" % short)
        .replace(NEXT, b"}\n\nid: ")
        .replace(SEQ, b'\ndata: {"runId":"%b","seq":' % run_id.encode())
        .replace(KIND, kind)
    )


def is_terminal(text: bytes) -> bool:
    """Whether the event in the text of a frame is the run's last one."""
    found = _TYPE.match(text)
    return found is not None and found[1].decode() in TERMINAL_TYPES


def http_chunk(text: bytes) -> bytes:
    """Return ``text`` as a chunk of a chunked HTTP body (RFC 9112, 7.1); not for an empty one, which ends the body."""
    return b"%x\r\n%b\r\n" % (len(text), text)


def retry(milliseconds: int) -> bytes:
    """Return the block that tells an ``EventSource`` how long to wait before it reconnects."""
    return b"retry: %d\n\n" % milliseconds
