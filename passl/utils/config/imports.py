"""``imports:``, the modules with parts of one's own, and where each of them was named."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Mapping, Sequence

from passl.utils.config.values import place_of
from passl.utils.errors import PasslError
from passl.utils.plugins import imports_given, resolved_import, with_imports


def imports_of_file(
    values: Mapping[str, Any], path: Path, origins: Mapping[str, str]
) -> Dict[str, str]:
    """Returns the imports of a file, as they are found from anywhere, and where each is named.

    Raises:
        PasslError: they are no list of text.
    """
    entries = values.get("imports") or []
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise PasslError(
            f"'imports' is a list of modules, not {entries!r}", place_of("imports", origins)
        )
    return {
        resolved_import(entry, path.parent): place_of(f"imports.{i}", origins)
        for i, entry in enumerate(entries)
    }


def all_imports(
    values: Dict[str, Any], of_files: Sequence[str], given: Sequence[str], origins: Dict[str, str]
) -> Dict[str, str]:
    """Makes the imports of a config those of its files and of the command line, and returns them.

    What overrides say is meant from the current folder; what files say has been found already.
    """
    stored = {
        entry if entry in of_files else resolved_import(entry, Path()): place
        for entry, place in places_of_imports(values, origins).items()
    }
    imports = with_imports(stored, imports_given(given))
    set_imports(values, imports, origins)
    return imports


def places_of_imports(values: Mapping[str, Any], origins: Mapping[str, str]) -> Dict[str, str]:
    """Returns the imports of a config with ``"file:line: "`` of each."""
    imports = enumerate(values.get("imports") or [])
    return {entry: place_of(f"imports.{i}", origins) for i, entry in imports}


def set_imports(
    values: Dict[str, Any], imports: Mapping[str, str], origins: Dict[str, str]
) -> None:
    """Makes ``imports``, with ``"file:line: "`` of each, those of a config."""
    for key in [key for key in origins if key.startswith("imports.")]:
        del origins[key]
    values["imports"] = list(imports)
    for i, place in enumerate(imports.values()):
        origins[f"imports.{i}"] = place[: -len(": ")]
