"""``get_config``: from a file and overrides to a whole config."""

from __future__ import annotations

import json
import os
import re
import shlex
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

from omegaconf import OmegaConf

from passl.utils.config.files import SUBSET, find_config, load_config, parse_yaml, refuse_odd_values
from passl.utils.config.imports import all_imports
from passl.utils.config.schema import check, kind_wanted
from passl.utils.config.values import Config, join_path, origin_of, place_of
from passl.utils.errors import PasslError, listing
from passl.utils.home import expanded
from passl.utils.migration import renamed_keys
from passl.utils.plugins import import_parts, import_plugins
from passl.utils.zoo import get_release


def get_config(
    path: Union[str, os.PathLike],
    overrides: Optional[Sequence[str]] = None,
    imports: Sequence[str] = (),
) -> Config:
    """Reads a config file, its bases and the overrides, and checks the result.

    The modules that it names under ``imports`` are then imported, so that it may name their parts.

    Args:
        path: a YAML file, or the bare name of a shipped config (``mlp-mixer_b16_224``).
        overrides: ``"a.b.c=value"`` strings; a number in the key picks a list item
            (``dataloader.train.dataset.transforms.1.size=128``); the value is YAML.
        imports: further modules, as ``imports`` in a file in the current folder would name them.

    Returns:
        The config with every default of the fixed sections filled in.

    Raises:
        PasslError: a missing file, bad YAML, an unknown key or a value of the wrong type, with
            file, line and the nearest valid key. Arguments of components (a backbone's, a
            transform's) are checked by the same rules when they are built.
    """
    file = find_config(path)
    origins: Dict[str, str] = {}
    values = load_config(file, (), origins)
    of_files = values.get("imports", [])
    # The view of the images is filled in before overrides can change parts of it.
    overrides = sorted(overrides or (), key=lambda text: not text.startswith("preprocessing="))
    if overrides and overrides[0].startswith("preprocessing="):
        values = _override(values, overrides[0], origins)
        _fill_preprocessing(values, origins, replace=True)
    else:
        _fill_preprocessing(values, origins)
    for override in overrides:
        values = _override(values, override, origins)
    _fill_preprocessing(values, origins)  # for a dataset that an override put in the other's place
    renames = renamed_keys(values)
    if renames:
        raise PasslError(
            f"{file}: is written for PASSL v1; change these keys:\n"
            + "\n".join(f"  {place_of(key, origins)}{old}  →  {new}" for key, old, new in renames)
        )
    checked = check(_expand_home(values, "", origins), file, origins)
    if checked["output_dir"] is None:
        checked["output_dir"] = os.path.join("output", file.stem)
    import_plugins()
    import_parts(all_imports(checked, of_files, imports, origins))
    return Config(checked, "", origins)


def _override(values: Dict[str, Any], override: str, origins: Dict[str, str]) -> Dict[str, Any]:
    """Applies one ``a.b.1.c=value``."""
    key, equals, text = override.partition("=")
    key = key.strip()
    place = f"-o {override}: "
    if not equals or not re.fullmatch(r"[^.\[\]]+(\.[^.\[\]]+)*", key):
        raise PasslError("an override has the form key.key=value, a list item key.0=value", place)
    value = _override_value(key, text, f"-o {override}")
    refuse_odd_values(value, key, {key: f"-o {override}"})
    node: Any = values
    parts = key.split(".")
    for i, part in enumerate(parts):
        at = ".".join(parts[:i]) or "the config"
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise PasslError(
                    f"{at} is a list of {len(node)}: '{part}' is not one of 0 to {len(node) - 1}",
                    place,
                )
            node = node[int(part)]
        elif isinstance(node, dict):
            node = node.get(part, {})
        elif node is None:
            node = {}
        else:
            raise PasslError(f"{at} is the value {node!r}, it has no '{part}' inside", place)
    cfg = OmegaConf.create(values)
    OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    for known in [known for known in origins if known.startswith(key + ".")]:
        del origins[known]
    for end in range(1, len(parts)):
        origins.setdefault(".".join(parts[:end]), f"-o {override}")
    origins[key] = f"-o {override}"
    return OmegaConf.to_container(cfg, resolve=False)


def _override_value(key: str, text: str, place: str) -> Any:
    """Returns what stands behind the ``=`` of an override: YAML, or what can only be text."""
    bare = text.strip()
    if SUBSET.fullmatch(bare):
        return bare
    quotes = f"if it is text: -o {shlex.quote(f'{key}={json.dumps(bare, ensure_ascii=False)}')}"
    try:
        value = parse_yaml(text, place)
    except PasslError as error:
        if bare[:1] not in ("[", "{"):
            error.args = (f"{error.args[0]}; {quotes}",)
        raise
    if isinstance(value, str) and bare[0] not in "'\"" and re.search(r"\s#", text):
        raise PasslError(f"a # after a space begins a comment; {quotes}", f"{place}: ")
    if isinstance(value, (bool, int, float)) and kind_wanted(key).startswith("takes text"):
        return bare  # a folder that is called 007, or 1e5
    return value


def _expand_home(value: Any, path: str, origins: Mapping[str, str]) -> Any:
    """Returns values with the home folder in the place of ``~`` where a text begins with it.

    Raises:
        PasslError: it is not known.
    """
    if isinstance(value, dict):
        return {
            key: _expand_home(item, join_path(path, key), origins) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_expand_home(item, join_path(path, i), origins) for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    try:
        return expanded(value)
    except PasslError as error:
        error.place = place_of(path, origins)
        raise


def _fill_preprocessing(
    values: Dict[str, Any], origins: Dict[str, str], replace: bool = False
) -> None:
    """Adds the view and the normalisation of the named release where the config gives none.

    Args:
        values: the config, changed in place.
        origins: of its keys; those of a list that gets items in front move along.
        replace: also where it gives them.
    """
    name, loaders = values.get("preprocessing"), values.get("dataloader")
    if name is None or not isinstance(loaders, dict):
        return
    try:
        preprocessing = get_release(name).preprocessing
    except PasslError as error:
        error.place = place_of("preprocessing", origins)
        raise
    for split, section in loaders.items():
        dataset = section.get("dataset") if isinstance(section, dict) else None
        if not isinstance(dataset, dict):
            continue
        path = f"dataloader.{split}.batch_transforms"
        section["batch_transforms"] = _with_first(
            preprocessing.batch_transforms(),
            section.get("batch_transforms"),
            replace,
            path,
            origins,
        )
        if split != "train" and (replace or "transforms" not in dataset):
            dataset["transforms"] = preprocessing.transforms()


def _with_first(
    first: List[Any], items: Any, replace: bool, path: str, origins: Dict[str, str]
) -> Any:
    """Returns a list of components that begins with ``first``, unless it has one of them already.

    Args:
        first: configs with a ``name``.
        items: the list; what is none is left for the check of the whole config to refuse.
        replace: puts them in the place of those that it has.
        path: where the list stands in the config.
        origins: of the config's keys, changed in place.
    """
    if items is not None and not isinstance(items, list):
        return items
    items = items or []
    names = {item["name"] for item in first}
    same = [
        i for i, item in enumerate(items) if isinstance(item, dict) and item.get("name") in names
    ]
    if same and not replace:
        return items
    kept = [i for i in range(len(items)) if i not in same]
    places = {old: len(first) + new for new, old in enumerate(kept)}
    moved = {}
    for key in [key for key in origins if key.startswith(path + ".")]:
        place = origins.pop(key)
        number, _, rest = key[len(path) + 1 :].partition(".")
        if int(number) in places:
            moved[join_path(join_path(path, places[int(number)]), rest).rstrip(".")] = place
    origins.update(moved)
    return first + [items[i] for i in kept]


def split_section(cfg: Config, split: str) -> Config:
    """Returns ``dataloader.<split>`` of a config.

    Raises:
        PasslError: the config has no such section.
    """
    section = cfg.dataloader[split]
    if section is None:
        there = [name for name, other in cfg.dataloader.items() if other is not None]
        # Who trains or measures training names no split.
        choice = "; choose with --split" if there and split != "train" else ""
        raise PasslError(
            f"the config has no dataloader.{split} section; it has: {listing(there) or 'none'}"
            f"{choice}",
            place=origin_of(cfg, "dataloader"),
        )
    return section
