"""Opens the archive that the settings name; the only door to pyarrow and obstore, which are optional."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from tailrace.errors import SettingsError
from tailrace.store.archives import Archives
from tailrace.telemetry import Telemetry

if TYPE_CHECKING:
    from tailrace.archive.vault import Vault

# How often a worker looks whether runs have come of age.
KEEP_SECONDS = 3600.0
# A store that is away is no reason to hurry, and a lost object none to say so every five seconds.
KEEP_RETRY_SECONDS = 300.0


def open_vault(url: str) -> Vault:
    """Return the vault at ``url``; raise ``SettingsError`` when the packages for it are not installed."""
    try:
        from tailrace.archive.vault import Vault  # noqa: PLC0415 - optional
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"TAILRACE_ARCHIVE_URL is set, and the package {error.name} is not installed: "
            "pip install 'tailrace[archive]'"
        ) from error
    return Vault(url)


def keeping(archives: Archives, vault: Vault, telemetry: Telemetry, age_days: float) -> Callable[[], Awaitable[bool]]:
    """Return what a worker does again and again: archive what ended more than ``age_days`` ago."""
    from tailrace.archive.archiver import Archiver  # noqa: PLC0415 - optional; there is a vault, so it is installed

    return partial(Archiver(archives, vault, telemetry).keep_once, age_days)
