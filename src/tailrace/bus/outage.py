"""An outage of the bus, told once when it begins and once when it ends, however many batches fall into it."""

from __future__ import annotations

from tailrace.telemetry import BusLost, BusRestored, Telemetry


class Outage:
    """Whether one bus is away; ``reason`` says why, None while it is there."""

    def __init__(self, address: str, telemetry: Telemetry) -> None:
        self._address = address
        self._telemetry = telemetry
        self.reason: str | None = None

    def begin(self, reason: str) -> None:
        """Note that the bus is away, for whatever reason was found last."""
        if self.reason is None:
            self._telemetry.tell(BusLost(self._address, reason))
        self.reason = reason

    def end(self) -> None:
        """Note that the bus is there."""
        if self.reason is not None:
            self.reason = None
            self._telemetry.tell(BusRestored(self._address))
