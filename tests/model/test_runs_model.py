"""Run ids, positions and the table of states."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import InvalidInput, InvalidPosition
from tailrace.model.event import SEQ_MAX
from tailrace.model.run import (
    STATE_AFTER,
    TERMINAL_STATES,
    TRANSITIONS,
    RunState,
    check_run_id,
    is_run_id,
    parse_position,
)


@pytest.mark.parametrize("text", ["0", "1", "9", "10", "1000", str(2**63 - 1)])
def test_a_position_is_a_whole_number(text: str) -> None:
    """0 to 2^63 - 1, written plainly."""
    assert parse_position(text, "/fromSeq") == int(text)


@pytest.mark.parametrize("text", [str(2**63), "9" * 19])
def test_a_position_that_no_seq_can_have_is_the_last_one(text: str) -> None:
    """19 digits are a position, also where they say more than a seq can be: one that is beyond every run's last."""
    assert parse_position(text, "/fromSeq") == SEQ_MAX


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-1", "-0", "+5", "1_000", "05", "00", "1\n", "\n1", " 1", "1 ", "1.0", "1e3", "0x10", "five",
        "\uff15", "\u0665", "1\u00b2", "1\x00", "1" + "0" * 19, "9" * 20, "9" * 5000, "null", "1,2",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_the_place(text: str) -> None:
    """What ``int()`` takes kindly (signs, underscores, digits of other scripts, white space) is refused."""
    with pytest.raises(InvalidPosition) as refused:
        parse_position(text, "/fromSeq")
    assert [fault.pointer for fault in refused.value.faults] == ["/fromSeq"]


@given(st.text(max_size=25))
def test_no_text_raises_anything_but_the_refusal(text: str) -> None:
    """A position that is accepted reads back as the text it came from."""
    try:
        position = parse_position(text, "")
    except InvalidPosition:
        return
    assert str(position) == text or (position == SEQ_MAX < int(text))


@pytest.mark.parametrize("run_id", ["a", "0", "A.b_c:d-e", "a" * 128, "7" + "-" * 127])
def test_a_run_id_of_the_contract_is_legal(run_id: str) -> None:
    """1 to 128 characters, the first a letter or a digit."""
    assert is_run_id(run_id)
    assert check_run_id(run_id) == run_id


@pytest.mark.parametrize(
    "run_id", ["", "-a", ".a", "_a", ":a", "a" * 129, "a b", "a/b", "a\n", "é", "\uff11", "a\x00", 5, None, ["a"]]
)
def test_any_other_run_id_is_refused_with_the_place(run_id: object) -> None:
    """Also the trailing line break that ``$`` lets through."""
    with pytest.raises(InvalidInput) as refused:
        check_run_id(run_id)
    assert [fault.pointer for fault in refused.value.faults] == ["/runId"]
    if isinstance(run_id, str):
        assert not is_run_id(run_id)


def test_terminal_states_lead_nowhere_and_every_state_leads_to_one() -> None:
    """queued, started, then exactly one of three."""
    assert {RunState.FINISHED, RunState.FAILED, RunState.CANCELLED} == TERMINAL_STATES == set(STATE_AFTER.values())
    assert set(TRANSITIONS) == set(RunState)
    for state in set(RunState) - TERMINAL_STATES:
        assert TRANSITIONS[state] & TERMINAL_STATES
        assert state not in TRANSITIONS[state]
