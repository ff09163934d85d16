"""Peers that cannot be installed from PyPI, npm or Debian alone, and what they gave elsewhere.

They are named in the table as not measured; the figures are of another sitting, on a machine of the same kind.
"""

from __future__ import annotations

from tailrace.bench.place import Place
from tailrace.bench.row import Figures, Reference
from tailrace.bench.runs import ABSURD, RESTATE


async def _never(_: Place) -> Figures:
    raise AssertionError("an absent peer is not measured")


RUNS = (
    Reference(
        ABSURD,
        _never,
        lambda: (
            "not run here: its package fetches its schema from GitHub; 183 runs/s elsewhere, 6 to 7 CPU s per 1,000"
        ),
    ),
    Reference(
        RESTATE,
        _never,
        lambda: "not run here: it is a server of its own; 317 runs/s elsewhere, 5.6 to 7.8 CPU s per 1,000",
    ),
)
