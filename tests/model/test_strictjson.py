"""Strict JSON: each rule from both sides, as bytes from outside and as a Python value."""

from __future__ import annotations

import json
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import InvalidInput
from tailrace.model import strictjson


def shown(item: object) -> str:
    """A test's id: the same in every process, so without addresses."""
    return repr(item)[:30].split(" at 0x")[0].split("<object")[0]


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: int


class Metres(float):
    pass


ACCEPTED = [
    (b"null", None),
    (b"  [1, 2]\n", [1, 2]),
    (b'{"a":1,"b":{"a":2}}', {"a": 1, "b": {"a": 2}}),
    (b"18446744073709551615", 2**64 - 1),
    (b"-9223372036854775808", -(2**63)),
    (b'"\\ud83d\\ude00"', "\U0001f600"),
    ('"\u2028"'.encode(), "\u2028"),
    (b"1e308", 1e308),
    (b"-0.0", -0.0),
    (json.dumps(nested(64)).encode(), nested(64)),
    (b"{}", {}),
    (b'""', ""),
]
REFUSED = [
    (b"", "", "is not JSON"),
    (b"{", "", "is not JSON"),
    (b"[1,]", "", "is not JSON"),
    (b"01", "", "is not JSON"),
    (b"'a'", "", "is not JSON"),
    (b'"a\nb"', "", "is not JSON"),
    (b"[1] x", "", "is not JSON"),
    (b"\xef\xbb\xbf{}", "", "byte order mark"),
    (b'"\xff"', "", "not UTF-8: byte 1"),
    (b'"\xed\xa0\x80"', "", "not UTF-8"),
    (b"NaN", "", "is NaN"),
    (b'{"a":Infinity}', "/a", "is Infinity"),
    (b'{"a":[-Infinity]}', "/a/0", "is -Infinity"),
    (b"1e999", "", "not a finite number"),
    (b"-1e999", "", "not a finite number"),
    (b"18446744073709551616", "", "beyond 64 bits"),
    (b"-9223372036854775809", "", "beyond 64 bits"),
    (b"9" * 5000, "", "beyond 64 bits"),
    (b"[1," + b"9" * 5000 + b"]", "/1", "beyond 64 bits"),
    (b'"\\ud800"', "", "lone surrogate"),
    (b'"\\udc00\\ud800"', "", "lone surrogate"),
    (b'{"\\ud800":1}', "", "key that contains a lone surrogate"),
    (b'"a\\u0000b"', "", "U+0000"),
    (b'{"a":{"k\\u0000":1}}', "/a", "key that contains U+0000"),
    (b'{"a":1,"a":2}', "/a", "named twice"),
    (b'{"x":[{"b":1,"c":2,"b":1}]}', "/x/0/b", "named twice"),
    (b'{"a":1,"\\u0061":2}', "/a", "named twice"),
    (b'{"a/b":{"c~d":NaN}}', "/a~1b/c~0d", "is NaN"),
    (b'{"~1":NaN}', "/~01", "is NaN"),
    (json.dumps(nested(65)).encode(), "/0" * 64, "deeper than 64"),
    (b"[" * 100_000, "", "deeper than 64"),
    (b'{"a":' * 65 + b"1" + b"}" * 65, "/a" * 64, "deeper than 64"),
]


@pytest.mark.parametrize(("body", "expected"), ACCEPTED, ids=shown)
def test_a_document_within_the_rules_is_taken_as_it_is(body: bytes, expected: object) -> None:
    """What is accepted is not changed."""
    assert strictjson.parse(body) == expected


@pytest.mark.parametrize(("body", "pointer", "detail"), REFUSED, ids=shown)
def test_a_document_outside_the_rules_is_refused_at_its_place(body: bytes, pointer: str, detail: str) -> None:
    """Each refusal names the place by an RFC 6901 pointer and says what is wrong there."""
    with pytest.raises(InvalidInput) as refused:
        strictjson.parse(body)
    (fault,) = refused.value.faults
    assert fault.pointer == pointer
    assert detail in fault.detail


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        (float("nan"), ""),
        ({"a": float("inf")}, "/a"),
        (2**64, ""),
        (-(2**63) - 1, ""),
        ("\ud800", ""),
        ({"a": "\x00"}, "/a"),
        ({1: 2}, ""),
        ({"a": {(1, 2): 3}}, "/a"),
        (b"bytes", ""),
        ({"a": {1, 2}}, "/a"),
        ([object()], "/0"),
        (nested(65), "/0" * 64),
        (1j, ""),
    ],
    ids=shown,
)
def test_a_python_value_that_is_not_json_is_refused_at_its_place(value: object, pointer: str) -> None:
    """``dump`` refuses what ``parse`` refuses, and what Python has and JSON has not."""
    with pytest.raises(InvalidInput) as refused:
        strictjson.dump(value)
    assert [fault.pointer for fault in refused.value.faults] == [pointer]


def test_a_value_that_contains_itself_is_refused() -> None:
    """A circle is nesting without end."""
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(InvalidInput, match="deeper than 64"):
        strictjson.dump(circle)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": 2}, '{"b":1,"a":2}'),
        ((1, (2, 3)), "[1,[2,3]]"),
        ("é\u2028", '"é\u2028"'),
        (nested(64), "[" * 64 + "]" * 64),
        ([2**64 - 1, -(2**63)], "[18446744073709551615,-9223372036854775808]"),
        (Colour.RED, '"red"'),
        ({Colour.RED: Level.HIGH}, '{"red":3}'),
        (Point(1, 2), "[1,2]"),
        ({"length": Metres(1.5)}, '{"length":1.5}'),
    ],
    ids=shown,
)
def test_a_python_value_becomes_compact_json_in_its_own_order(value: object, text: str) -> None:
    """Subclasses of what JSON has (enums, named tuples, numbers of other libraries) are what they inherit."""
    assert strictjson.dump(value) == text


@pytest.mark.parametrize(
    "body",
    [
        json.dumps([float("nan")] * 1000).encode(),
        json.dumps({f"k{number}\x00": 1 for number in range(1000)}).encode(),
        json.dumps([{f"k{number}\x00": 1} for number in range(1000)]).encode(),
    ],
    ids=["values", "keys of one object", "keys of many objects"],
)
def test_a_hostile_document_gets_no_longer_answer_than_a_clumsy_one(body: bytes) -> None:
    """The number of faults that are named is bounded, whatever is wrong."""
    with pytest.raises(InvalidInput) as refused:
        strictjson.parse(body)
    assert len(refused.value.faults) == strictjson.FAULTS_MAX


def test_every_place_is_named_when_there_are_few() -> None:
    """One answer is enough to mend a document."""
    with pytest.raises(InvalidInput) as refused:
        strictjson.parse(b'{"a":NaN,"b":["\\u0000",1e999],"c":1,"c":2}')
    assert [fault.pointer for fault in refused.value.faults] == ["/a", "/b/0", "/b/1", "/c"]


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=5), inner, max_size=5
        )
    ),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_what_is_dumped_is_parsed_as_the_same_value(value: object) -> None:
    """``parse`` takes whatever ``dump`` makes, unchanged."""
    assert strictjson.parse(strictjson.dump(value).encode()) == value


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_either_json_or_refused(body: bytes) -> None:
    """No input raises anything but ``InvalidInput``, and whatever is taken can be written again."""
    try:
        value = strictjson.parse(body)
    except InvalidInput:
        return
    strictjson.dump(value)


@given(JSON_VALUES)
def test_the_canonical_text_does_not_depend_on_the_order_of_keys(value: object) -> None:
    """Two bodies that mean the same are the same request."""

    def turned(item: object) -> object:
        match item:
            case dict():
                return {key: turned(inner) for key, inner in reversed(item.items())}
            case list():
                return [turned(inner) for inner in item]
        return item

    assert strictjson.canonical(turned(value)) == strictjson.canonical(value)
