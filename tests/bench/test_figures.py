"""What is made of measured figures: pairs, ratios, goals, table and chart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tailrace.bench.catalogue import chosen
from tailrace.bench.chart import chart
from tailrace.bench.place import Place, Scale
from tailrace.bench.report import document, lines, markdown
from tailrace.bench.row import Figure, Figures, Goal, Measured, Reference, Row
from tailrace.bench.runner import measure_row
from tailrace.errors import UsageError

HERE = Place("postgresql://nowhere", Path(), Scale(rounds=4))


def row(order: list[str], **references: object) -> Row:
    """A row whose sides say when they were measured; ours gives 10, 20, 30, 40, a reference its constant."""
    values = iter([10.0, 20.0, 30.0, 40.0])

    def side(name: str, value: object) -> Reference:
        async def measure(_: Place) -> Figures:
            order.append(name)
            if isinstance(value, Exception):
                raise value
            assert isinstance(value, float)
            return {"rate": value}

        return Reference(name, measure)

    async def ours(_: Place) -> Figures:
        order.append("ours")
        return {"rate": next(values)}

    return Row(
        name="row",
        title="A row",
        figures=(Figure("rate", "rate", "events/s"),),
        ours=ours,
        references=[side(name, value) for name, value in references.items()],
        goals=(Goal("rate", at_least=2, than="limit"), Goal("rate", at_most=24), Goal("rate", at_least=1, than="gone")),
    )


async def test_sides_are_measured_in_turn_and_the_order_turns_round() -> None:
    """A machine that drifts drifts for both sides of a pair."""
    order: list[str] = []
    measured = await measure_row(row(order, limit=10.0), HERE)
    assert order == ["ours", "limit", "limit", "ours"] * 2
    ratio = measured.ratio("rate", "limit")
    assert ratio is not None
    assert (ratio.median, ratio.smallest, ratio.largest) == (2.5, 1.0, 4.0)


async def test_goals_are_reached_not_reached_or_not_told() -> None:
    """A relative goal is compared with the median ratio; one whose reference is missing is no success."""
    measured = await measure_row(row([], limit=10.0), HERE)
    assert [measured.reached(goal) for goal in measured.row.goals] == [True, False, None]
    (cells,) = lines(measured)
    assert "rate ≥ 2 x limit: reached" in cells[-1]
    assert "rate ≤ 24 events/s: NOT reached" in cells[-1]
    assert "not told here" in cells[-1]


async def test_a_peer_that_fails_or_is_missing_is_named_and_the_others_go_on() -> None:
    """Nothing is left out in silence."""
    made = row([], limit=10.0, broken=OSError("no such server"))
    absent = Reference("absent", made.ours, lambda: "not installed")
    measured = await measure_row(replace(made, references=[*made.references, absent]), HERE)
    assert measured.failed == {"broken": "OSError: no such server"}
    assert measured.missing == {"absent": "not installed"}
    (shown,) = document([measured], {}, {})["rows"]
    assert shown["missing"] == {"absent": "not installed"}
    assert [each["name"] for each in shown["figures"][0]["references"]] == ["limit"]


async def test_a_row_that_cannot_be_measured_here_says_why() -> None:
    """On another system, or without an optional part, the other rows go on."""
    made = replace(row([], limit=10.0), missing=lambda: "not on this system")
    measured = await measure_row(made, HERE)
    assert (measured.missing, measured.failed, measured.ours) == ({"tailrace": "not on this system"}, {}, [])
    assert lines(measured) == []


@pytest.fixture
def measured() -> Measured:
    return Measured(row([]), ours=[{"rate": 1234.0}], references={"limit <&>": [{"rate": 2000.0}]})


def test_the_markdown_is_one_table_with_every_reference(measured: Measured) -> None:
    """It goes into docs/performance.md as it is."""
    head, rule, *body = markdown([measured]).splitlines()
    assert head.count("|") == rule.count("|") == body[0].count("|")
    assert "1,234" in body[0]
    assert "limit <&>" in body[0]
    assert "0.62" in body[0]


def test_the_chart_escapes_what_it_shows(measured: Measured) -> None:
    """A name of a reference is text, not markup."""
    assert "limit &lt;&amp;&gt;" in chart([measured], "a machine")


def test_rows_keep_their_order_whatever_order_they_are_asked_for() -> None:
    """And a name that is not there is refused with those that are."""
    assert [each.name for each in chosen(["hot", "append"])] == ["append", "hot"]
    with pytest.raises(UsageError, match=r"fan-out.*fanout-100"):
        chosen(["fan-out"])
