"""What happenings tell of events: shapes, whoever holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Written(Protocol):
    """What was committed of one run: events from ``first_seq`` on, of these types."""

    @property
    def run_id(self) -> str:
        """The run."""
        ...

    @property
    def first_seq(self) -> int:
        """The seq of the first of them."""
        ...

    @property
    def types(self) -> Sequence[str]:
        """What happened, in order."""
        ...


class Emitted(Protocol):
    """What is told of one published event."""

    @property
    def seq(self) -> int:
        """Its position in the run."""
        ...

    @property
    def type(self) -> str:
        """What happened."""
        ...

    @property
    def ts(self) -> int:
        """When it was emitted, in milliseconds since the Unix epoch."""
        ...


class HandedOver(Protocol):
    """What was published of one run."""

    @property
    def run_id(self) -> str:
        """The run."""
        ...

    @property
    def last_seq(self) -> int:
        """The seq of the last of the events."""
        ...

    @property
    def events(self) -> Sequence[Emitted]:
        """The events, in order."""
        ...
