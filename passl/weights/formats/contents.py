"""What every format's reader returns."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Iterable, Mapping, Set, Tuple

from passl.utils.pickles import PickledArray, Placeholder
from passl.utils.stored_array import DamagedFile, StoredArray

_DEEPEST = 6
# Of all paths together, in characters: a pickle can put one container under many long names.
_LONGEST_PATHS = 1 << 24


@dataclasses.dataclass
class Contents:
    """The tensors of a file.

    Attributes:
        groups: the mappings of names to tensors, by where in the file they stand:
            ``""`` for its top level, ``"state_dict"``, ``"optimizer.state.0"``.
        refused: for each group, names whose tensor is made by something that is not rebuilt,
            and that something's ``module.name``.
        objects: what else the file's pickle names.
        convention: how the framework that wrote the file stores a linear layer: ``torch``
            (out, in), ``paddle`` or ``flax`` (in, out; convolutions as height, width, in, out).
        metadata: what PASSL wrote beside the tensors; empty for others' files.
        without: where there are no tensors, what the file is instead, and what helps; empty where
            nothing more is known.
    """

    groups: Dict[str, Dict[str, StoredArray]]
    convention: str
    refused: Dict[str, Dict[str, str]] = dataclasses.field(default_factory=dict)
    objects: Set[str] = dataclasses.field(default_factory=set)
    metadata: Dict[str, Any] = dataclasses.field(default_factory=dict)
    without: str = ""


def sort_out(tree: Any, convention: str) -> Contents:
    """Finds the tensors of a rebuilt pickle."""
    contents = Contents({}, convention)
    seen: Set[int] = set()
    todo = [("", tree)]
    length = 0
    if isinstance(tree, Placeholder):
        contents.objects.add(tree.name)
    while todo:
        path, node = todo.pop()
        if not isinstance(node, (dict, list, tuple)) or id(node) in seen:
            continue
        seen.add(id(node))
        deepest = path.count(".") >= _DEEPEST
        for key, value in _children(node):
            name = key.decode("latin-1") if isinstance(key, bytes) else str(key)
            array = _as_array(value)
            if array is not None:
                contents.groups.setdefault(path, {})[name] = array
            elif isinstance(value, Placeholder):
                contents.objects.add(value.name)
                if isinstance(node, dict):
                    contents.refused.setdefault(path, {})[name] = value.name
            elif isinstance(value, (dict, list, tuple)) and not deepest:
                todo.append((f"{path}.{name}" if path else name, value))
                length += len(todo[-1][0])
                if length > _LONGEST_PATHS:
                    raise DamagedFile("its pickle is too large to be a description of weights")
    return contents


def _children(node: Any) -> Iterable[Tuple[Any, Any]]:
    return node.items() if isinstance(node, Mapping) else enumerate(node)


def _as_array(value: Any) -> Any:
    # Paddle writes a tensor inside a nested container as the pair (its automatic name, array).
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    if isinstance(value, PickledArray):
        value = value.stored
    return value if isinstance(value, StoredArray) else None
