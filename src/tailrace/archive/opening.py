"""Opens the archive that the settings name; the only door to pyarrow and obstore, which are optional."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.errors import SettingsError

if TYPE_CHECKING:
    from tailrace.archive.vault import Vault


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
