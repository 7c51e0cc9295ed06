"""Whose names a file uses, and what they are called here.

A backbone's file says as data what released files call its layers (``released_names``); this
module turns names, and the layouts of the arrays that go with them, into PASSL's and back.
Three conventions store a layer's numbers differently:

=========  ==================  ====================================  ==========================
           linear weight       convolution weight                    names of a layer's arrays
=========  ==================  ====================================  ==========================
paddle     ``[in, out]``       ``[out, in, height, width]``          ``weight``, ``bias``
torch      ``[out, in]``       ``[out, in, height, width]``          ``weight``, ``bias``
flax       ``[in, out]``       ``[height, width, in, out]``          ``kernel``, ``scale``, ``bias``
=========  ==================  ====================================  ==========================
"""

from __future__ import annotations

import dataclasses
import re
from typing import Dict, Iterable, List, Mapping, Optional, Tuple

from passl.utils.errors import PasslError, listing
from passl.utils.stored_array import StoredArray
from passl.weights.reading import WeightFile

# What a backbone's file says: publisher -> (convention, {layer here: layer there}). ``{i}`` in
# both stands for the same number.
ReleasedNames = Mapping[str, Tuple[str, Mapping[str, str]]]

OWN = "passl"

# What wrappers (data parallelism, torch.compile, an outer module) put before every name.
_WRAPPERS = ("module.", "_layers.", "_orig_mod.", "model.", "net.", "network.")

_TO_HERE = {("torch", 2): (1, 0), ("flax", 4): (3, 2, 0, 1)}
_TO_THERE = {("torch", 2): (1, 0), ("flax", 4): (2, 3, 1, 0)}


class Naming:
    """One publisher's names for the layers of one family of networks.

    Args:
        name: the publisher (``timm``).
        convention: ``paddle``, ``torch`` or ``flax``.
        layers: layer here to layer there.
    """

    def __init__(self, name: str, convention: str, layers: Mapping[str, str]):
        self.name, self.convention = name, convention
        self._dot = "/" if convention == "flax" else "."
        leaf = "(?P<leaf>kernel|scale|bias)" if convention == "flax" else "(?P<leaf>weight|bias)"
        here = r"\.(?P<leaf>weight|bias)"
        self._from_there = [
            (_pattern(there, re.escape(self._dot) + leaf), ours) for ours, there in layers.items()
        ]
        self._from_here = [(_pattern(ours, here), there) for ours, there in layers.items()]

    def to_here(self, name: str) -> Optional[str]:
        """Returns what an array called ``name`` there is called here; None if it is unknown."""
        layer, leaf = _translate(name, self._from_there)
        return layer and f"{layer}.{'bias' if leaf == 'bias' else 'weight'}"

    def to_there(self, name: str, axes: int) -> Optional[str]:
        """Returns what an array of ``axes`` axes is called there."""
        layer, leaf = _translate(name, self._from_here)
        if layer is None:
            return None
        if self.convention == "flax" and leaf == "weight":
            leaf = "scale" if axes == 1 else "kernel"
        return f"{layer}{self._dot}{leaf}"


def _pattern(template: str, leaf: str) -> re.Pattern:
    return re.compile(re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)") + leaf)


def _translate(name: str, table: List[Tuple[re.Pattern, str]]) -> Tuple[Optional[str], str]:
    for pattern, template in table:
        match = pattern.fullmatch(name)
        if match:
            parts = match.groupdict()
            return template.replace("{i}", parts.get("i") or ""), parts["leaf"]
    return None, ""


def namings(released_names: ReleasedNames) -> Dict[str, Naming]:
    """Returns all namings of a family, its own first."""
    layers = [layer for _, table in released_names.values() for layer in table]
    own = Naming(OWN, "paddle", {layer: layer for layer in layers})
    others = {name: Naming(name, *entry) for name, entry in released_names.items()}
    return {OWN: own, **others}


def to_here(array: StoredArray, convention: str) -> StoredArray:
    """Returns an array of another convention in the layout of Paddle's layers."""
    axes = _TO_HERE.get((convention, len(array.shape)))
    return array.transposed(axes) if axes else array


def to_there(array: StoredArray, convention: str) -> StoredArray:
    """Returns an array of Paddle's layout in that of another convention."""
    axes = _TO_THERE.get((convention, len(array.shape)))
    return array.transposed(axes) if axes else array


@dataclasses.dataclass
class Translation:
    """A file's tensors under the names used here.

    Attributes:
        publisher: whose names the file uses.
        tensors: name here to array, in Paddle's layout.
        unexpected: names in the file that mean nothing here.
        refused: name here to what alone could have made its value.
    """

    publisher: str
    tensors: Dict[str, StoredArray]
    unexpected: List[str]
    refused: Dict[str, str]


def translate(file: WeightFile, released_names: ReleasedNames) -> Translation:
    """Finds out whose names a file uses, and translates them.

    Raises:
        PasslError: hardly any name is known.
    """
    if file.metadata:  # written here, in the names of today
        return Translation(OWN, dict(file.tensors), [], {})
    names = {name: name for name in [*file.tensors, *file.refused]}
    for _ in range(3):  # wrappers of wrappers
        for wrapper in _WRAPPERS:
            if all(inner.startswith(wrapper) for inner in names.values()):
                names = {name: inner[len(wrapper) :] for name, inner in names.items()}
    # The publisher who knows most of the names; the order of the table settles a tie.
    best = max(
        namings(released_names).values(),
        key=lambda naming: _known(naming, names.values()),
    )
    here = {name: best.to_here(inner) for name, inner in names.items()}
    if 2 * _known(best, names.values()) < len(file.tensors):
        raise PasslError(
            f"{file.path}: its names belong to no release of this network that is known "
            f"({listing(released_names)}); it begins with {listing(list(file.tensors)[:3])}"
        )
    return Translation(
        best.name,
        {
            here[name]: to_here(array, file.convention)
            for name, array in file.tensors.items()
            if here[name] is not None
        },
        [name for name in file.tensors if here[name] is None],
        {here[name]: cause for name, cause in file.refused.items() if here[name] is not None},
    )


def _known(naming: Naming, names: Iterable[str]) -> int:
    return sum(naming.to_here(name) is not None for name in names)
