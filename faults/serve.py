"""``python -m faults.serve NAME serve …``: the ``tailrace`` command with the known-bad build NAME in it."""

from __future__ import annotations

import sys

from faults import builds
from tailrace.cli import main

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in builds.BUILDS:
        sys.exit(f"usage: python -m faults.serve {'|'.join(builds.BUILDS)} serve …")
    for owner, attribute, replacement in builds.BUILDS[sys.argv[1]]():
        setattr(owner, attribute, replacement)
    sys.argv = ["tailrace", *sys.argv[2:]]
    main()
