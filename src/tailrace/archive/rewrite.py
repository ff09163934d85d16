"""Writes an object anew without some of its runs; objects are never changed in place."""

from __future__ import annotations

from tailrace.archive.objects import store
from tailrace.archive.parquet import Spool
from tailrace.archive.vault import ObjectGone, Vault
from tailrace.errors import ArchiveMismatch
from tailrace.store.archives import Archives, Placed


async def rewrite(archives: Archives, vault: Vault, name: str, purged: set[str]) -> None:
    """Let what stays of an object be in a new one, and remove the old; without a new one when nothing stays.

    :raises ArchiveMismatch: the object is lost or not what was archived; it is left as it is.
    """
    held = await archives.of_object(name)
    stays = {run.run_id: run.sha256 for run in held if run.run_id not in purged}
    gone = [run.run_id for run in held if run.run_id in purged]
    new: str | None = None
    size, placed = 0, list[Placed]()
    if stays:
        spool = Spool()
        try:
            await _respool(vault, spool, name, held[0].size_bytes, stays)
            if {run.run_id: run.sha256 for run in spool.digest.placed()} != stays:
                raise ArchiveMismatch(
                    f"the object {name} at {vault.url} is not what was archived; it was left as it is"
                )
            new, size, placed = await store(archives, vault, spool)
        finally:
            spool.close()
    await archives.replace_object(name, new, size, placed, gone)
    await vault.do(vault.remove, name)


async def _respool(vault: Vault, spool: Spool, name: str, size: int, stays: dict[str, bytes]) -> None:
    try:
        for group in range(await vault.do(vault.groups, name, size)):
            _, rows = await vault.do(vault.group, name, size, group)
            if kept := [row for row in rows if row.run_id in stays]:
                await vault.do(spool.add, kept)
    except ObjectGone:
        raise ArchiveMismatch(f"the archive at {vault.url} has lost {name}, which has runs that are to stay") from None
