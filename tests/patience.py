"""How long anything is waited for that is to happen, whatever else the machine has to do meanwhile."""

from __future__ import annotations

# Far beyond what anything takes here: it is no measure of speed, and only a test that fails ever waits for so long.
PATIENCE_SECONDS = 60.0
# As playwright counts.
PATIENCE_MS = round(PATIENCE_SECONDS * 1000)
