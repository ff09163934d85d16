"""The embedded server on its way up while this process does something else, such as importing the rest of itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tailrace.errors import LocalPostgresError
from tailrace.local.client import LocalPostgres, start


@contextmanager
def starting_early(data_dir: Path | None) -> Iterator[None]:
    """Begin to start the server, or to join it, and keep a share of it for the length of the block.

    Nothing is raised here: whoever needs the server calls ``start`` too, which then waits for this one, or meets what
    it has met.

    :param data_dir: as for ``start``.
    """
    shares: list[LocalPostgres] = []

    def begin() -> None:
        with suppress(LocalPostgresError):
            shares.append(start(data_dir))

    thread = threading.Thread(target=begin, name="tailrace-starting-early", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        for share in shares:
            share.close()
