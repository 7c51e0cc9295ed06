"""Parts of one's own: modules outside of this package, whose decorators register what they define.

A config names them under ``imports``, a command with ``--import``, and an installed package by an
entry point of the group ``passl.plugins``. They are imported before anything is built from a
config. Weight files and checkpoints never name any.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterable, Mapping, Optional, Tuple

from passl.utils.errors import PasslError
from passl.utils.home import expanded
from passl.utils.logging import logger

GROUP = "passl.plugins"


def resolved_import(entry: str, folder: Path) -> str:
    """Returns an entry of ``imports`` so that it means the same from anywhere.

    Args:
        entry: a ``.py`` file or the folder of a package, relative to ``folder``; or the name of a
            module (``my_parts.heads``), in ``folder`` or on Python's path.
        folder: where the entry stands: of the config file, or where a command was started.

    Returns:
        An absolute path; the name itself where ``folder`` has no such module.
    """
    if _is_path(entry):
        return os.path.abspath(folder / expanded(entry))
    if not _is_name(entry):  # which is refused when it is imported
        return entry
    path = folder.joinpath(*entry.split("."))
    for found in (path.with_name(path.name + ".py"), path):
        # A folder of Python files alone is meant as well; that it lacks a file is said later.
        if found.is_file() or (found / "__init__.py").is_file() or any(found.glob("*.py")):
            return os.path.abspath(found)
    return entry


def imports_given(entries: Iterable[str]) -> Dict[str, str]:
    """Returns the modules that ``--import`` names, from the current folder, and where each is."""
    return {resolved_import(entry, Path()): f"--import {entry}: " for entry in entries}


def with_imports(stored: Mapping[str, str], given: Mapping[str, str]) -> Dict[str, str]:
    """Returns the imports of a config with those of the command line.

    Those of a module that the config names as well take its place: so ``--import`` can say where a
    module is now that has moved.

    Args:
        stored, given: entries, as ``resolved_import`` gives them, with where they are named.
    """
    kept = {
        entry: place
        for entry, place in stored.items()
        if not any(_same_module(entry, other) for other in given)
    }
    return {**kept, **given}


def import_parts(entries: Mapping[str, str]) -> None:
    """Imports modules with parts of one's own; those that are loaded already stay as they are.

    Args:
        entries: as ``resolved_import`` gives them, with where each is named, for messages.

    Raises:
        PasslError: there is no such module, or it cannot be imported, with the line in it.
    """
    for entry, place in entries.items():
        if _is_path(entry):
            _import_file(Path(entry), place)
        elif _is_name(entry):
            _import(entry, None, place)
        else:
            raise PasslError(
                f"{entry!r} is neither the name of a module (my_parts.heads) nor a path "
                "(./my_parts/heads.py)",
                place,
            )


@functools.lru_cache(maxsize=1)
def import_plugins() -> None:
    """Imports what installed packages offer under the entry point group, once in a process.

    One that fails is left out with a warning: it may have nothing to do with what is asked for.
    """
    for point in _entry_points():
        try:
            point.load()
        except (Exception, SystemExit) as error:  # somebody else's code
            logger.warning(
                "the plug-in %s (%s) is left out: %s", point.name, point.value, _first_line(error)
            )


def _entry_points() -> Iterable[Any]:
    if sys.version_info >= (3, 10):
        return importlib.metadata.entry_points(group=GROUP)
    return importlib.metadata.entry_points().get(GROUP, ())


def _is_path(entry: str) -> bool:
    return entry.endswith(".py") or any(letter in entry for letter in ("/", os.sep, "~"))


def _module_of(path: Path) -> Tuple[str, Path]:
    """Returns the name of the module in a file or folder, and the folder to find it from."""
    module = path.with_suffix("") if path.suffix == ".py" else path
    names, folder = [module.name], module.parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    return ".".join(names), folder


def _is_name(entry: str) -> bool:
    return all(part.isidentifier() for part in entry.split("."))


def _same_module(stored: str, given: str) -> bool:
    """Tells whether two entries name the same module, perhaps at two places."""
    name = _module_of(Path(given))[0] if _is_path(given) else given
    if not _is_path(stored):
        return stored == name
    path = Path(stored)
    if path.exists():
        return _module_of(path)[0] == name
    # Where it was, nothing tells any more which of the folders above belonged to its name.
    return f".{'.'.join(path.with_suffix('').parts)}".endswith(f".{name}")


def _import_file(path: Path, place: str) -> None:
    if not (path.is_file() or (path / "__init__.py").is_file()):
        remedy = "there is no such file; if it has moved, say where it is now with --import PATH"
        if path.is_dir():
            remedy = "has no __init__.py; add one that imports the modules in it"
        raise PasslError(f"{path}: {remedy}", place)
    name, folder = _module_of(path)
    if "." in path.stem:
        raise PasslError(f"{path}: has a dot in its name, which no module has; rename it", place)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: it hides nothing
    importlib.invalidate_caches()  # the file may be newer than Python's last look at the folder
    module = _import(name, path, place)
    found = getattr(module, "__file__", None)
    file = path if path.suffix == ".py" else path / "__init__.py"
    if found is None or not os.path.exists(found) or not os.path.samefile(found, file):
        raise PasslError(
            f"{path}: Python has another module that is called {name} ({found or 'built in'}); "
            "give this one another name",
            place,
        )


def _import(name: str, path: Optional[Path], place: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if path is None and error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise PasslError(
                f"there is no module '{name}', neither beside the file that names it (with "
                "--import, in this folder) nor on Python's path; install it, or name it by its "
                "path: --import PATH",
                place,
            ) from None
        raise _failed(name, error) from error
    except PasslError as error:  # two parts of one name, say
        error.place = error.place or f"{_line_of(error)}: "
        raise
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _failed(name: str, error: BaseException) -> PasslError:
    kind = "" if isinstance(error, (ModuleNotFoundError, SyntaxError)) else type(error).__name__
    said = f"{kind}: {_first_line(error)}" if kind else _first_line(error)
    return PasslError(f"importing {name} failed: {said}", f"{_line_of(error)}: ")


def _line_of(error: BaseException) -> str:
    """Returns ``file:line`` of where an error comes from, in the user's code if there is any."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen", own + os.sep))
    ]
    frames = [frame for frame in frames if not _is_library(frame.filename)] or frames
    return f"{frames[-1].filename}:{frames[-1].lineno}"


def _is_library(file: str) -> bool:
    """Tells whether a file belongs to Python or to an installed package."""
    installed = {"site-packages", "dist-packages"}.intersection(Path(file).parts)
    return bool(installed) or file.startswith(sysconfig.get_path("stdlib") + os.sep)


def _first_line(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return error.msg
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
