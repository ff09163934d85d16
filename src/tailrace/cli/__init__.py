"""The command line: ``tailrace``.  Exit codes: 0 done, 1 failed, 2 usage."""

from tailrace.cli.main import main

__all__ = ["main"]
