"""Strict JSON: what comes in is refused rather than changed.

Postgres, browsers and Python each bend JSON in their own way: NUL cannot be stored, lone surrogates cannot be
encoded, NaN is not JSON, duplicate keys lose data silently, integers past 64 bits become floats.  ``parse`` reads
bytes from outside, ``dump`` writes a Python value; both refuse the same things and name each place by an RFC 6901
pointer, before any SQL.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from itertools import repeat
from typing import Any, NoReturn

import orjson

from tailrace.errors import Fault, InvalidInput

DEPTH_MAX = 64
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1
# Enough to show what is wrong; a hostile document gets no longer answer than a clumsy one.
FAULTS_MAX = 20
_SURROGATE = re.compile("[\ud800-\udfff]")


class _DuplicateKey:
    """Stands in the parsed tree where an object named a key twice."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = key


class _Refused:
    """Stands in the parsed tree for a number that JSON does not have or that does not fit."""

    __slots__ = ("detail",)

    def __init__(self, detail: str) -> None:
        self.detail = detail


def parse(body: bytes, *, depth_max: int = DEPTH_MAX) -> Any:
    """Return the value of a JSON document.

    :param depth_max: how deep arrays and objects may be nested; more for a document that wraps one.
    :raises InvalidInput: not UTF-8, a byte order mark, not JSON, or a value listed in the module's docstring.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _whole(f"is not UTF-8: byte {error.start} cannot be decoded") from error
    if text.startswith("\ufeff"):
        raise _whole("begins with a byte order mark; send plain UTF-8")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _whole(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError:
        raise _whole(f"is nested deeper than {depth_max}") from None
    check(value, depth_max=depth_max)
    return value


def dump(value: object) -> str:
    """Return ``value`` as compact JSON text, keys in their own order.

    :raises InvalidInput: something in it is not JSON, or would not survive the way to a client unchanged.
    """
    check(value)
    return _write(value, 0).decode()


def canonical(value: object) -> bytes:
    """Return one text for all documents that mean the same: keys sorted, no white space; ``value`` was checked."""
    return _write(value, orjson.OPT_SORT_KEYS)


def check(value: object, *, depth_max: int = DEPTH_MAX) -> None:
    """Raise ``InvalidInput`` naming each place of ``value`` that is not strict JSON."""
    if _is_plain(value, depth_max):
        return
    faults: list[Fault] = []
    _walk(value, "", depth_max, faults)
    if faults:
        raise InvalidInput(
            f"the JSON is not acceptable: {faults[0].pointer or 'the document'} {faults[0].detail}", faults
        )


def _write(value: object, option: int) -> bytes:
    try:
        return orjson.dumps(value, option=option)
    except TypeError:
        # orjson takes no named tuples, no subclasses of float and no enums as keys; `check` has, for they are what they
        # inherit from, and the slower writer says so.
        plain = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=bool(option))
        return plain.encode()


def _is_plain(value: Any, room: int) -> bool:  # noqa: PLR0911, PLR0912 - one case a type
    """Whether ``value`` is surely strict JSON; False says that it has to be looked at more closely.

    Most events are, and this takes a quarter of the time of the walk that names each fault (measured); what lies flat
    in an object, as most values do, costs no call of its own.
    """
    items: Iterable[tuple[Any, Any]]
    if type(value) is dict:
        items = value.items()
    elif type(value) is list:
        items = zip(repeat(""), value)
    else:
        items = (("", value),)
        room += 1
    if room <= 0:
        return False
    for key, item in items:
        if type(key) is not str or not key.isascii() or "\x00" in key:
            return False
        kind = type(item)
        if kind is str:
            if not item.isascii() or "\x00" in item:
                return False
        elif kind is int:
            if not INTEGER_MIN <= item <= INTEGER_MAX:
                return False
        elif kind is dict or kind is list:
            if not _is_plain(item, room - 1):
                return False
        elif kind is float:
            if not math.isfinite(item):
                return False
        elif item is not None and kind is not bool:
            return False
    return True


def _walk(value: object, pointer: str, room: int, faults: list[Fault]) -> None:  # noqa: PLR0912 - one case a type
    if len(faults) >= FAULTS_MAX:
        return
    match value:
        case None | bool():
            return
        case str():
            detail = _text_fault(value)
        case int():
            detail = None if INTEGER_MIN <= value <= INTEGER_MAX else "is an integer beyond 64 bits"
        case float():
            detail = None if math.isfinite(value) else "is not a finite number"
        case dict() | list() | tuple() if room <= 0:
            detail = f"is nested deeper than {DEPTH_MAX}"
        case dict():
            _walk_object(value, pointer, room, faults)
            return
        case list() | tuple():
            for index, item in enumerate(value):
                _walk(item, f"{pointer}/{index}", room - 1, faults)
            return
        case _Refused():
            detail = value.detail
        case _DuplicateKey():
            detail = "is named twice in its object"
        case _:
            detail = f"is a {type(value).__name__}, which JSON does not have"
    if detail is not None:
        faults.append(Fault(pointer, detail))


def _walk_object(value: dict[object, object], pointer: str, room: int, faults: list[Fault]) -> None:
    for key, item in value.items():
        if len(faults) >= FAULTS_MAX:
            return
        if not isinstance(key, str):
            faults.append(Fault(pointer, f"has a key that is a {type(key).__name__}; JSON keys are strings"))
            continue
        detail = _text_fault(key)
        if detail is not None:
            faults.append(Fault(pointer, f"has a key that {detail}"))
            continue
        _walk(item, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}", room - 1, faults)


def _text_fault(text: str) -> str | None:
    if "\x00" in text:
        return "contains U+0000, which Postgres cannot store"
    if not text.isascii() and _SURROGATE.search(text):
        return "contains a lone surrogate, which is not a character"
    return None


def _whole(detail: str) -> InvalidInput:
    return InvalidInput(f"the body {detail}", [Fault("", detail)])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) < len(pairs):
        counted: set[str] = set()
        for key, _ in pairs:
            if key in counted:
                seen[key] = _DuplicateKey(key)
            counted.add(key)
    return seen


def _integer(digits: str) -> Any:
    # int() refuses more than 4,300 digits with an error of its own and takes quadratic time below that.
    return int(digits) if len(digits) <= len(str(INTEGER_MIN)) else _Refused("is an integer beyond 64 bits")


def _constant(name: str) -> Any:
    return _Refused(f"is {name}, which JSON does not have")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)


def refuse(pointer: str, detail: str) -> NoReturn:
    """Raise ``InvalidInput`` for one place of a document."""
    raise InvalidInput(f"the body is not acceptable: {pointer or 'the document'} {detail}", [Fault(pointer, detail)])
