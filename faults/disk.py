"""A small disk: a tmpfs whose size can be cut to what is on it, which is a full disk, and given back."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

SIZE = "1g"
TRIES = 50
_CLONE_NEWNS = 0x00020000


class SmallDisk:
    """A mounted tmpfs.  It uses memory for what is written to it alone, and vanishes with the campaign's processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> int:
        """Leave no room for another page; return the bytes that are free."""
        for _ in range(TRIES):
            status = os.statvfs(self.folder)
            try:
                self._resize(f"{(status.f_blocks - status.f_bfree) * status.f_frsize}")
            except subprocess.CalledProcessError:
                continue  # Postgres has written in between, and a size below what is used is refused.
            return self.free
        return self.free

    def empty(self) -> None:
        """Give the room back."""
        self._resize(SIZE)

    @property
    def free(self) -> int:
        """Bytes that are free."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def close(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False, capture_output=True)

    def _resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True, capture_output=True)


def small_disk(folder: Path) -> SmallDisk | str:
    """Mount a small disk, or return why there is none.

    Mounted in a namespace of this process and its children, so that nobody else sees it and no mount is left behind.
    """
    if not sys.platform.startswith("linux"):
        return "small disks are mounted on Linux alone"
    if os.geteuid() != 0:
        return "only root may mount a small disk"
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        return f"this system does not let root mount: {os.strerror(ctypes.get_errno())}"
    folder.mkdir()
    try:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True, capture_output=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(folder)],
            check=True, capture_output=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", b"") or b""
        return f"mounting a small disk failed: {said.decode().strip() or error}"
    return SmallDisk(folder)
