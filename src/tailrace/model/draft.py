"""Events before they have a place: what an agent says, checked, and not yet numbered.

Every event that enters the log is made by one of these functions, so each rule about what a type may carry stands
here and nowhere else.
"""

from __future__ import annotations

from typing import NamedTuple

from tailrace.errors import EventTooLarge, Fault, InvalidEvent, InvalidInput
from tailrace.model import strictjson
from tailrace.model.event import EventType

# A name is shown in a list and kept in every event; longer texts belong into data.
NAME_MAX = 256
# An error's text is cut here: a driver that quotes a whole document back must not make the terminal event too large.
MESSAGE_MAX = 4000


# Plain strings: a member of the enumeration costs the driver and the encoder several times as much per event.
RUN_STARTED = EventType.RUN_STARTED.value
NODE_STARTED = EventType.NODE_STARTED.value
DEBUG_TRACE = EventType.DEBUG_TRACE.value
NODE_FINISHED = EventType.NODE_FINISHED.value
CUSTOM = EventType.CUSTOM.value
RUN_FINISHED = EventType.RUN_FINISHED.value
RUN_FAILED = EventType.RUN_FAILED.value
RUN_CANCELLED = EventType.RUN_CANCELLED.value


class Draft(NamedTuple):
    """An event without its seq; ``ts`` in milliseconds since the Unix epoch, ``data`` as JSON text."""

    type: str
    ts: int
    name: str | None = None
    fn: str | None = None
    data: str | None = None


def run_started(ts: int) -> Draft:
    """Return a RunStarted."""
    return Draft(RUN_STARTED, ts)


def node_started(name: object, ts: int) -> Draft:
    """Return a NodeStarted; raise ``InvalidEvent`` if the name is not acceptable."""
    return Draft(NODE_STARTED, ts, name=check_name(name, "name"))


def node_finished(name: object, ts: int) -> Draft:
    """Return a NodeFinished; raise ``InvalidEvent`` if the name is not acceptable."""
    return Draft(NODE_FINISHED, ts, name=check_name(name, "name"))


def debug_trace(fn: object, ts: int) -> Draft:
    """Return a DebugTrace; raise ``InvalidEvent`` if ``fn`` is not acceptable."""
    return Draft(DEBUG_TRACE, ts, fn=check_name(fn, "fn"))


def custom(name: object, data: object, ts: int, *, max_bytes: int) -> Draft:
    """Return a Custom event.

    :param data: a JSON object, or None for none.
    :param max_bytes: the most its JSON may take as UTF-8.
    :raises InvalidEvent: a bad name, or data that is not a strict JSON object.
    :raises EventTooLarge: the data is over ``max_bytes``.
    """
    return Draft(CUSTOM, ts, name=check_name(name, "name"), data=_payload(data, max_bytes))


def run_finished(ts: int) -> Draft:
    """Return a RunFinished."""
    return Draft(RUN_FINISHED, ts)


def run_cancelled(ts: int) -> Draft:
    """Return a RunCancelled."""
    return Draft(RUN_CANCELLED, ts)


def run_failed(error: BaseException, ts: int, *, max_bytes: int) -> Draft:
    """Return a RunFailed that names the error's class and message, without a traceback.

    Nothing is refused here: a run must be able to end whatever its agent raised, so what cannot be written is
    replaced.
    """
    message = _printable(_text_of(error), MESSAGE_MAX)
    data = strictjson.dump({"message": message})
    while len(data.encode()) > max_bytes and message:
        message = message[: len(message) // 2]
        data = strictjson.dump({"message": message})
    fn = _printable(type(error).__name__, NAME_MAX) or "Exception"
    return Draft(RUN_FAILED, ts, fn=fn, data=data)


def check_name(name: object, field: str) -> str:
    """Return ``name`` if it may stand in an event, else raise ``InvalidEvent``."""
    if not isinstance(name, str):
        raise _refused(field, f"must be a string, not {type(name).__name__}")
    if not 1 <= len(name) <= NAME_MAX:
        raise _refused(field, f"must have 1 to {NAME_MAX} characters, not {len(name)}")
    if "\x00" in name or not (name.isascii() or _printable(name, NAME_MAX) == name):
        raise _refused(field, "contains U+0000 or a lone surrogate")
    return name


def _payload(data: object, max_bytes: int) -> str | None:
    if data is None:
        return None
    if not isinstance(data, dict):
        raise _refused("data", f"must be a JSON object (a dict), not {type(data).__name__}")
    try:
        text = strictjson.dump(data)
    except InvalidInput as error:
        faults = [Fault(f"/data{fault.pointer}", fault.detail) for fault in error.faults]
        raise InvalidEvent(
            f"the event's data is not acceptable: {faults[0].pointer} {faults[0].detail}", faults
        ) from None
    # A character takes at most four bytes, so most events are never encoded just to be measured.
    if len(text) * 4 > max_bytes and (size := len(text.encode())) > max_bytes:
        detail = f"takes {size} bytes as JSON; TAILRACE_MAX_EVENT_BYTES allows {max_bytes}"
        raise EventTooLarge(
            f"the event's data {detail}. Store it elsewhere and emit a reference", [Fault("/data", detail)]
        )
    return text


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001 - an error that cannot be printed must still end its run
        return f"(its text cannot be had: str() raised {type(second).__name__})"


def _printable(text: str, limit: int) -> str:
    return text[:limit].replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _refused(field: str, detail: str) -> InvalidEvent:
    return InvalidEvent(f"the event's {field} {detail}", [Fault(f"/{field}", detail)])
