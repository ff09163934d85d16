"""Which class comes next.  Pure: the campaign performs the rounds and says how they went.

One round of each class comes first, then those that did not bite, then all of them again.  When the time is over, only
classes that are not proved are wanted, for as long as the campaign grants.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

# A fault that did not bite is tried again so often before its class counts as not proved.
TRIES_MAX = 4


class Schedule:
    """The classes of a campaign, how often each was tried, and which were proved to bite."""

    def __init__(self, names: Sequence[str], rng: random.Random) -> None:
        self._names = list(names)
        self._rng = rng
        self._tries: Counter[str] = Counter()
        self._proved: set[str] = set()
        self._again: list[str] = []

    @property
    def unproved(self) -> list[str]:
        """The classes that had every chance, and of which no fault could be proved to bite."""
        return [name for name in self._names if name not in self._proved and self._tries[name] >= TRIES_MAX]

    @property
    def unreached(self) -> list[str]:
        """The classes that are not proved and have chances left: what remains when time runs out."""
        return [name for name in self._names if name not in self._proved and self._tries[name] < TRIES_MAX]

    def wanted(self, *, over: bool) -> str | None:
        """Return the next class, None when there is none any more.

        :param over: the time is over; what is proved needs no other round.
        """
        if left := self.unreached:
            fewest = min(self._tries[name] for name in left)
            return self._rng.choice([name for name in left if self._tries[name] == fewest])
        if over:
            return None
        if not self._again:
            self._again = self._rng.sample(self._names, len(self._names))
        return self._again.pop() if self._again else None

    def done(self, name: str, *, proved: bool) -> None:
        """Count a round of a class."""
        self._tries[name] += 1
        if proved:
            self._proved.add(name)
