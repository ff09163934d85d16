"""What is measured, beside what, and what is wanted of it.  Pure."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tailrace.bench.place import Place

Figures: TypeAlias = Mapping[str, float]
Measure: TypeAlias = Callable[[Place], Awaitable[Figures]]
# Figures from here on are shown without decimals.
WHOLE_FROM = 1000
Prepare: TypeAlias = Callable[[Place], AbstractAsyncContextManager[Place]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a row gives: its key in what is measured, its title, its unit, and which way it gets better."""

    key: str
    title: str
    unit: str
    better: Literal["less", "more"] = "less"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on a figure: absolute, or, with ``than``, a multiple of that reference's same figure."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None
    than: str | None = None

    def text(self, figures: Sequence[Figure]) -> str:
        """Return the goal as a person reads it, ``p99 ≤ 50 ms`` or ``events/s ≥ 0.7 x limit``."""
        figure = next(each for each in figures if each.key == self.figure)
        sign, bound = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        what = f"x {self.than}" if self.than is not None else figure.unit
        return f"{figure.title} {sign} {bound:,g} {what}"

    def reached(self, value: float) -> bool:
        """Return whether a value, or a ratio when the goal is relative, is within the bound."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, slots=True)
class Reference:
    """Something that does the same, measured in the same run.

    :param missing: says why it cannot be measured here, None when it can.
    """

    name: str
    measure: Measure
    missing: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; ``name`` is what ``--only`` takes, the first figure is what the chart shows.

    :param missing: says why the row cannot be measured here, None when it can.
    :param prepare: makes, once for all rounds, what every measurement of the row finds.
    """

    name: str
    title: str
    figures: Sequence[Figure]
    ours: Measure
    references: Sequence[Reference] = ()
    goals: Sequence[Goal] = ()
    rounds: int = 3
    name_of_ours: str = "Tailrace"
    missing: Callable[[], str | None] = lambda: None
    prepare: Prepare = nullcontext


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of what the rounds gave."""

    median: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one value or more."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(slots=True)
class Measured:
    """What the rounds of one row gave: the figures of ours and of each reference, round by round."""

    row: Row
    ours: list[Figures] = field(default_factory=list)
    references: dict[str, list[Figures]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def spread(self, key: str, reference: str | None = None) -> Spread | None:
        """Return the spread of a figure, of ours or of a reference; None when it was not measured."""
        rounds = self.ours if reference is None else self.references.get(reference, [])
        values = [figures[key] for figures in rounds if key in figures]
        return Spread.of(values) if values else None

    def ratio(self, key: str, reference: str) -> Spread | None:
        """Return ours over the reference's, pair by pair; None when a side was not measured."""
        pairs = zip(self.ours, self.references.get(reference, []), strict=False)
        ratios = [mine[key] / its[key] for mine, its in pairs if key in mine and its.get(key)]
        return Spread.of(ratios) if ratios else None

    def reached(self, goal: Goal) -> bool | None:
        """Return whether the median reaches a goal; None when it cannot be told here."""
        found = self.spread(goal.figure) if goal.than is None else self.ratio(goal.figure, goal.than)
        return goal.reached(found.median) if found is not None else None


def number(value: float) -> str:
    """Return a figure as a person reads it."""
    return f"{value:,.0f}" if abs(value) >= WHOLE_FROM or value == int(value) else f"{value:.3g}"
