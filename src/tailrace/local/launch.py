"""Runs the supervisor, by the path of this file, without importing the rest of Tailrace.

``tailrace/__init__.py`` imports what the library needs, which costs more time than the server's start; so the
packages are put in place by hand, and only the standard library and the modules beside this one are loaded.
"""

import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parent

for name, folder in (("tailrace", FOLDER.parent), ("tailrace.local", FOLDER)):
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package

from tailrace.local.supervisor import main  # noqa: E402 # the packages come first

main(sys.argv[1])
