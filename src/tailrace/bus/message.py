"""What a message on a remote bus carries: a run, its last published seq and, while they are small, the events.

It is a JSON array, ``[1, sender, run id, last seq, [[seq, ts, type, name, fn, data], …]]``.  ``data`` stays the text
that lies in Postgres, so that no number or key order changes on the way.  What cannot be read is passed over: a bus is
shared, a rolling upgrade mixes versions, and the tail check finds what a message did not bring.
"""

from __future__ import annotations

import orjson

from tailrace.bus.bus import Published
from tailrace.model.event import StoredEvent

VERSION = 1
# Past this a message costs the server and every subscriber more than one indexed read costs the reader.
MESSAGE_MAX_BYTES = 64 * 2**10


def encode(sender: str, published: Published, *, max_bytes: int) -> bytes:
    """Return the message, without the events if it would be longer than ``max_bytes`` with them."""
    run_id, last_seq, events = published
    if sum(len(event.data or "") for event in events) <= max_bytes:
        message = orjson.dumps([VERSION, sender, run_id, last_seq, [event[1:] for event in events]])
        if len(message) <= max_bytes:
            return message
    return orjson.dumps([VERSION, sender, run_id, last_seq, []])


def decode(message: bytes) -> tuple[str, Published] | None:
    """Return the sender and what was published; None for what is not such a message."""
    try:
        version, sender, run_id, last_seq, rows = orjson.loads(message)
        if version != VERSION or not isinstance(run_id, str) or type(last_seq) is not int:
            return None
        events = [StoredEvent(run_id, *row) for row in rows]
    except (ValueError, TypeError):
        return None
    if events and (events[-1].seq != last_seq or any(type(event.seq) is not int for event in events)):
        return None
    return str(sender), Published(run_id, last_seq, events)
