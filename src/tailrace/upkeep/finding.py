"""What the doctor finds: a code, how bad it is, what was seen, and what is safe to do about it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Severity = Literal["warning", "critical"]


class Code(StrEnum):
    """Names of what may be wrong; scripts may rely on them."""

    OUTBOX_BEHIND = "outbox-behind"  # events are persisted and not published in time
    SEQ_GAP = "seq-gap"  # the log of a run lacks an event
    NOT_STARTED = "not-started"  # a run is queued and no worker takes it
    STALLED = "stalled"  # a started run has no new event
    LEASE_EXPIRED = "lease-expired"  # a run's worker is gone and nobody has taken the run over
    INDEX_MISSING = "index-missing"  # an index that the migrations create is not there, or not usable
    SCHEMA_BEHIND = "schema-behind"  # the tables are not of the version that this Tailrace needs
    WAKEUP_DEAD = "wakeup-dead"  # LISTEN is accepted and hears nothing
    BUS_UNREACHABLE = "bus-unreachable"  # the bus does not answer
    DATABASE_UNREACHABLE = "database-unreachable"  # Postgres does not answer, or takes no writes
    URL_UNREACHABLE = "url-unreachable"  # the public URL does not lead to a stream of this database
    PROXY_BUFFERS = "proxy-buffers"  # something before the public URL keeps events back
    PROXY_COMPRESSES = "proxy-compresses"  # something before the public URL compresses the stream


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    code: Code
    severity: Severity
    detail: str
    action: str
    run_id: str | None = None

    def view(self) -> dict[str, str]:
        """Return it as the contract names its fields."""
        view = {"code": str(self.code), "severity": self.severity}
        if self.run_id is not None:
            view["runId"] = self.run_id
        return view | {"detail": self.detail, "action": self.action}


def report(findings: Collection[Finding]) -> dict[str, object]:
    """Return the document of `tailrace doctor --json`."""
    return {"ok": not findings, "findings": [finding.view() for finding in findings]}
