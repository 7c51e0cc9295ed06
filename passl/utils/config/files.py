"""Config files: finding and reading them over their bases, with the line of every key.

PyYAML reads (its parser knows line numbers, which messages need), OmegaConf merges.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple, Union

import yaml
from omegaconf import OmegaConf

from passl.utils.config.imports import imports_of_file, places_of_imports, set_imports
from passl.utils.config.values import join_path, place_of
from passl.utils.config.yaml_dialect import ConfigLoader
from passl.utils.errors import PasslError, listing, suggest
from passl.utils.home import expanded
from passl.utils.shipped import config_root
from passl.utils.system_errors import explain_os_error

# A part of a set: YAML takes it for a list, and for a broken one where it begins with a colon.
SUBSET = re.compile(r"\[(?:[\d.]+%)?:(?:[\d.]+%)?\]")

_BARE_SUBSET = re.compile(rf"[^#]*(?:^|[:,{{\[-])\s*({SUBSET.pattern})")

_IN_QUOTES = re.compile(r"'[^']*'|\"[^\"]*\"")


def parse_yaml(text: str, name: str) -> Any:
    """Returns what a text of YAML holds; ``name`` is what messages call it."""
    for number, line in enumerate(text.splitlines(), start=1):
        bare = _BARE_SUBSET.match(_IN_QUOTES.sub("''", line))
        if bare:
            raise PasslError(
                f'{bare[1]} is a list in YAML; put it in quotes: "{bare[1]}"', f"{name}:{number}: "
            )
    try:
        return yaml.load(text, Loader=ConfigLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}: " if mark else f"{name}: "
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise PasslError(f"not valid YAML: {problem}", place) from None


def refuse_odd_values(value: Any, path: str, origins: Mapping[str, str]) -> None:
    """Raises PasslError for what YAML can say and a config may not."""
    place = place_of(path, origins)
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or "." in key:
                where = f" in '{path}'" if path else ""
                raise PasslError(f"a key{where} is text without dots, not {key!r}", place)
            refuse_odd_values(item, join_path(path, key), origins)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            refuse_odd_values(item, join_path(path, i), origins)
    elif isinstance(value, str):
        if "${" in value:
            raise PasslError(
                f"'{path}': {value!r} holds '${{', and nothing is substituted in a config; "
                "write the value out, or use a YAML anchor",
                place,
            )
    elif isinstance(value, float) and not math.isfinite(value):
        raise PasslError(f"'{path}' is {value}; a config holds finite numbers", place)
    elif value is not None and not isinstance(value, (bool, int, float)):
        raise PasslError(
            f"'{path}' is a {type(value).__name__}; a config holds text, numbers, true, false, "
            "null, lists and mappings (put it in quotes if it is text)",
            place,
        )


def _record_origins(
    node: yaml.Node,
    name: str,
    path: str,
    origins: Dict[str, str],
    above: Tuple[yaml.Node, ...] = (),
) -> None:
    """Notes the line of every key and list item below ``node``."""
    if any(node is other for other in above):
        raise PasslError(f"the anchor at '{path}' contains itself", place_of(path, origins))
    if isinstance(node, yaml.MappingNode):
        items: List[Tuple[str, yaml.Node, yaml.Node]] = [
            (key.value, key, value) for key, value in node.value
        ]
    elif isinstance(node, yaml.SequenceNode):
        items = [(str(i), value, value) for i, value in enumerate(node.value)]
    else:
        return
    for key, key_node, value in items:
        origins[join_path(path, key)] = f"{name}:{key_node.start_mark.line + 1}"
        _record_origins(value, name, join_path(path, key), origins, (*above, node))


def shipped_configs() -> Dict[str, Path]:
    """Returns the configs that come with the package, by file name without ``.yaml``."""
    root = config_root()
    return {
        path.stem: path
        for path in sorted(root.rglob("*.yaml"))
        if path.parent != root / "zoo" and not path.stem.startswith("_")
    }


def find_config(path: Union[str, os.PathLike]) -> Path:
    """Returns the file that ``-c PATH`` means: a path, or the name of a shipped config.

    In such a name ``-`` and ``_`` are the same: networks are called ``mlp_mixer_…``, their configs
    ``mlp-mixer_…``.
    """
    given = Path(expanded(os.fspath(path)))
    if given.is_file():
        return given
    if given.is_dir():
        raise PasslError(f"{path}: is a folder; a config is a YAML file")
    shipped = shipped_configs()
    bare = given.parent == Path() or given.parts[0] == "configs"
    if bare and given.suffix in ("", ".yaml"):
        for name, found in shipped.items():
            if name.replace("-", "_") == given.stem.replace("-", "_"):
                return found
    raise PasslError(
        f"{path}: there is no such config file{suggest(given.stem, shipped)}; "
        f"shipped configs, usable by name: {listing(shipped)}"
    )


def load_config(path: Path, seen: Tuple[Path, ...], origins: Dict[str, str]) -> Dict[str, Any]:
    """Reads one file over its bases, base first, and notes where each key came from."""
    if path.resolve() in seen:
        raise PasslError(f"{path}: is its own _base_, through {seen[-1]}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PasslError(f"{path}: there is no such file, named as _base_ in {seen[-1]}") from None
    except OSError as error:
        raise explain_os_error(error, path, "read") from None
    except UnicodeDecodeError as error:
        raise PasslError(f"{path}: is not UTF-8 text ({error}); save it as such") from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise PasslError(f"{path}: a config is a mapping of keys to values; this is {values!r:.60}")
    bases = values.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise PasslError(f"{path}: _base_ is a file name or a list of them, not {bases!r}")
    own: Dict[str, str] = {}
    _record_origins(yaml.compose(text, Loader=ConfigLoader), str(path), "", own)
    refuse_odd_values(values, "", own)
    imports: Dict[str, str] = {}
    merged: Dict[str, Any] = {}
    for base in bases:
        below = load_config(path.parent / expanded(base), (*seen, path.resolve()), origins)
        imports.update(places_of_imports(below, origins))
        merged = _merge(merged, below)
    imports.update(imports_of_file(values, path, own))
    merged = _merge(merged, values)
    origins.update(own)
    if imports:  # a file's add to those of its bases
        set_imports(merged, imports, origins)
    return merged


def _merge(base: Dict[str, Any], over: Dict[str, Any]) -> Dict[str, Any]:
    _drop_replaced(base, over)
    merged = OmegaConf.merge(OmegaConf.create(base), OmegaConf.create(over))
    return OmegaConf.to_container(merged, resolve=False)


def _drop_replaced(base: Dict[str, Any], over: Dict[str, Any]) -> None:
    """Removes from ``base`` the mappings for which ``over`` names another component."""
    for key, value in over.items():
        below = base.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            if "name" in value and "name" in below and value["name"] != below["name"]:
                del base[key]
            else:
                _drop_replaced(below, value)
