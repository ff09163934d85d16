"""Finding the user's App: ``FILE_OR_MODULE[:NAME]``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from tailrace.app import App
from tailrace.errors import UsageError

DEFAULT_NAME = "app"


def load_app(target: str) -> App:
    """Return the App that ``target`` names: a file or a module, then ``:`` and a variable, ``app`` when left out.

    :raises UsageError: there is no such file, module or variable, it is no App, or importing it failed.
    """
    place, colon, name = target.rpartition(":")
    if not colon or "/" in name or name.endswith(".py"):
        place, name = target, DEFAULT_NAME
    module = _import(place, target)
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"--app {target}: {place} has no {name!r}; name its App as {place}:NAME")
        found = getattr(found, part)
    if not isinstance(found, App):
        raise UsageError(f"--app {target}: {name!r} is a {type(found).__name__}, not a tailrace.App")
    return found


def _import(place: str, target: str) -> ModuleType:
    path = Path(place)
    try:
        if place.endswith(".py") or path.is_file():
            return _import_file(path.resolve(), target)
        # As `python -m` does: modules of the working folder come first.
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(place)
    except UsageError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise UsageError(f"--app {target}: there is no file and no module {place!r}") from error
        raise UsageError(f"--app {target}: importing it failed: {error}") from error
    except Exception as error:
        # The user's code failed: where it did is what helps, without our own frames.
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"
        raise UsageError(f"--app {target}: importing it failed: {text}") from error


def _import_file(path: Path, target: str) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"--app {target}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--app {target}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Its own folder, so that it can import its neighbours; its name, so that pickling and dataclasses find it.
    sys.path.insert(0, str(path.parent))
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module
