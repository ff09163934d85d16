"""Where objects lie: a folder or an object store, by one interface.

Methods block and are called in threads: ``await vault.do(vault.read, …)``.  A marker object tells a store that is away,
such as a folder whose disk is not mounted, from one that is there and has lost an object.
"""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
import pyarrow as pa
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from tailrace.archive.parquet import Footer, Spool, events_of, rows_of
from tailrace.errors import ArchiveMismatch, ArchiveUnavailable
from tailrace.model.event import StoredEvent
from tailrace.store.archives import Row

T = TypeVar("T")

MARKER = "tailrace-archive.json"
MARKER_TEXT = b'{"tailrace":"archive","format":1}\n'
# Calls to the store at a time; the process's other threads stay free when it is slow.
THREADS = 4
# A store that is away must be told from a slow one before a client gives up.
REQUEST_SECONDS, CONNECT_SECONDS, RETRIES = 20, 5, 2
# Decoded row groups and footers that readers share.
CACHE_MAX_BYTES = 32 * 2**20
FOOTERS_MAX = 8


class ObjectGone(Exception):
    """The store is there and has no such object."""


class Vault:
    """The objects at ``url``: an absolute path, ``file:///…``, ``s3://…``, ``gs://…`` or ``az://…``."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self._folder = Path(unquote(parts.path)) if parts.scheme in ("", "file") else None
        self._opened: Any = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="archive")
        self._cache = _Cache()

    async def do(self, call: Callable[..., T], *args: Any) -> T:
        """Call a blocking method in a thread of the vault's own."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def prepare(self, objects: int) -> None:
        """Make the place, unless it should hold objects: then it must be there, with its marker.

        :raises ArchiveUnavailable: it is away, or another place than the one that has the objects.
        """
        if objects == 0 and self._folder is not None:
            with self._telling("make"):
                self._folder.mkdir(parents=True, exist_ok=True)
        with self._telling("look into"):
            if not self._has(MARKER):
                if objects:
                    raise ArchiveUnavailable(
                        f"{self.url} is not the archive that holds the {objects} objects which Postgres knows of: it "
                        f"has no {MARKER}. Check TAILRACE_ARCHIVE_URL, and whether the place is mounted"
                    )
                obstore.put(self._store(), MARKER, MARKER_TEXT)

    def put(self, name: str, spool: Spool) -> int:
        """Store an object durably and return its size in bytes."""
        with self._telling("write to"):
            obstore.put(self._store(), name, spool.file)
            if self._folder is not None:
                _sync(self._folder / name)
                _sync(self._folder)
            size: int = obstore.head(self._store(), name)["size"]
        return size

    def size(self, name: str) -> int | None:
        """Return an object's size in bytes, None when the store is there and does not have it."""
        with self._telling("look into"):
            try:
                size: int = obstore.head(self._store(), name)["size"]
            except FileNotFoundError:
                self._require_marker()
                return None
            return size

    def remove(self, name: str) -> None:
        """Remove an object, and what an upload that was cut short has left of it."""
        with self._telling("remove from"):
            try:
                obstore.delete(self._store(), name)
            except FileNotFoundError:
                self._require_marker()
            if self._folder is not None:
                for part in self._folder.glob(f"{name}#*"):  # where a local upload stands until it is complete
                    part.unlink(missing_ok=True)

    def groups(self, name: str, size: int) -> int:
        """Return how many row groups an object has."""
        with self._reading(name):
            return self._footer(name, size).groups

    def group_of(self, name: str, size: int, row: int) -> int:
        """Return the row group of an object that has a row."""
        with self._reading(name):
            return self._footer(name, size).group_of(row)

    def group(self, name: str, size: int, group: int) -> tuple[int, list[Row]]:
        """Return the number of a row group's first row, and its rows, fresh from the store."""
        with self._reading(name):
            footer = self._footer(name, size)
            return footer.start(group), rows_of(footer.read(self._file(name, size), group))

    def read(self, name: str, size: int, row: int, limit: int) -> list[StoredEvent]:
        """Return at most ``limit`` events from ``row`` on, never none: as many as the same row group has."""
        with self._reading(name):
            footer = self._footer(name, size)
            group = footer.group_of(row)
            table = self._cache.table(name, group)
            if table is None:
                table = footer.read(self._file(name, size), group)
                self._cache.keep_table(name, group, table)
            return events_of(table.slice(row - footer.start(group), limit))

    def _footer(self, name: str, size: int) -> Footer:
        footer = self._cache.footer(name)
        if footer is None:
            footer = Footer(self._file(name, size))
            self._cache.keep_footer(name, footer)
        return footer

    def _file(self, name: str, size: int) -> pa.PythonFile:
        return pa.PythonFile(_Ranges(self._store(), name, size), mode="r")

    def _store(self) -> Any:
        if self._opened is None:
            if self._folder is not None:
                self._opened = LocalStore(self._folder)
            else:
                self._opened = from_url(
                    self.url,
                    # Plain http is the choice of whoever names such an endpoint, as of a store in the same cluster.
                    client_options={
                        "timeout": f"{REQUEST_SECONDS}s", "connect_timeout": f"{CONNECT_SECONDS}s", "allow_http": True
                    },
                    retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=REQUEST_SECONDS)},
                )  # fmt: skip
        return self._opened

    def _has(self, name: str) -> bool:
        try:
            obstore.head(self._store(), name)
        except FileNotFoundError:
            return False
        return True

    def _require_marker(self) -> None:
        if not self._has(MARKER):
            raise ArchiveUnavailable(f"the archive at {self.url} is away: it has no {MARKER}. Is the place mounted?")

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        with self._telling("read from"):
            try:
                yield
            except FileNotFoundError as error:
                self._require_marker()
                raise ObjectGone(name) from error
            except pa.ArrowInvalid as error:
                raise ArchiveMismatch(
                    f"the object {name} at {self.url} is not what was stored there: {error}"
                ) from error

    @contextmanager
    def _telling(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            found = (str(error).splitlines() or [type(error).__name__])[0]
            raise ArchiveUnavailable(f"could not {verb} the archive at {self.url}: {found}") from error


class _Ranges(io.RawIOBase):
    """An object as a file that is read in ranges; its size is known."""

    def __init__(self, store: Any, name: str, size: int) -> None:
        self._store = store
        self._name = name
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = self._size - self._position
        length = left if size < 0 else min(size, left)
        if length <= 0:
            return b""
        found = bytes(obstore.get_range(self._store, self._name, start=self._position, length=length))
        self._position += len(found)
        return found


class _Cache:
    """The footers and row groups that were read last; objects never change, so nothing here grows old."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._footers: OrderedDict[str, Footer] = OrderedDict()
        self._tables: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self._bytes = 0

    def footer(self, name: str) -> Footer | None:
        with self._lock:
            if name in self._footers:
                self._footers.move_to_end(name)
            return self._footers.get(name)

    def keep_footer(self, name: str, footer: Footer) -> None:
        with self._lock:
            self._footers[name] = footer
            if len(self._footers) > FOOTERS_MAX:
                self._footers.popitem(last=False)

    def table(self, name: str, group: int) -> pa.Table | None:
        with self._lock:
            if (name, group) in self._tables:
                self._tables.move_to_end((name, group))
            return self._tables.get((name, group))

    def keep_table(self, name: str, group: int, table: pa.Table) -> None:
        with self._lock:
            if (name, group) not in self._tables:
                self._tables[name, group] = table
                self._bytes += table.nbytes
            while self._bytes > CACHE_MAX_BYTES and len(self._tables) > 1:
                _, dropped = self._tables.popitem(last=False)
                self._bytes -= dropped.nbytes


def _sync(path: Path) -> None:
    """Bring a file or folder to the disk: its rows are deleted next."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
