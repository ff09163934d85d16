"""Storing and removing objects: accounted for before they are there, read back before anything relies on them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

from tailrace.archive.parquet import Digest, Spool
from tailrace.archive.vault import ObjectGone, Vault
from tailrace.errors import ArchiveMismatch
from tailrace.store.archives import Archives, Placed, Range

# A writer that was frozen for longer than this is not thought of any more.
DOOMED_SECONDS = 86_400.0


async def store(archives: Archives, vault: Vault, spool: Spool) -> tuple[str, int, list[Placed]]:
    """Store what was spooled, read it back, and return the object's name, its size and what lies where in it.

    The object is ``writing`` still: it is removed again unless the caller makes it ``stored``.

    :raises ArchiveMismatch: what was read back is not what was spooled.
    """
    await vault.do(spool.finish)
    name = f"events-{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(8)}.parquet"
    await archives.begin_object(name)
    size = await vault.do(vault.put, name, spool)
    placed = spool.digest.placed()
    if await read_back(vault, name, size) != placed:
        raise ArchiveMismatch(
            f"what was read back of {name} at {vault.url} is not what was written; no row was deleted"
        )
    return name, size, placed


async def read_back(vault: Vault, name: str, size: int) -> list[Placed]:
    """Read an object from end to end and return which runs lie where in it, with their hashes."""
    digest = Digest()
    try:
        for group in range(await vault.do(vault.groups, name, size)):
            _, rows = await vault.do(vault.group, name, size, group)
            await vault.do(digest.add, rows)
    except ObjectGone:
        raise ArchiveMismatch(f"the object {name} is not at {vault.url}") from None
    return digest.placed()


async def clean(archives: Archives, vault: Vault) -> None:
    """Remove from the store what shall not be there.  Only for the holder of the turn: nobody else is writing then.

    Doomed objects are removed again and again for a while, in case a frozen writer puts one there after all.
    """
    unstored = await archives.unstored_objects()
    if left := [name for name, state in unstored.items() if state == "writing"]:
        await archives.doom_objects(left)
    for name in unstored:
        await vault.do(vault.remove, name)
    await archives.forget_objects(DOOMED_SECONDS)


async def is_whole(vault: Vault, name: str, size: int) -> bool:
    """Whether the store has an object of this size."""
    found: int | None = None
    with suppress(ObjectGone):
        found = await vault.do(vault.size, name)
    return found == size


def batches(ranges: Iterable[Range], rows_max: int) -> Iterator[list[Range]]:
    """Cut ranges of rows into batches of at most ``rows_max`` rows."""
    batch: list[Range] = []
    room = rows_max
    for run_id, first, upto in ranges:
        after = first
        while after < upto:
            end = min(upto, after + room)
            batch.append((run_id, after, end))
            room -= end - after
            after = end
            if room == 0:
                yield batch
                batch, room = [], rows_max
    if batch:
        yield batch
