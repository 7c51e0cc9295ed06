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
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from passl.utils.errors import PasslError, listing
from passl.utils.stored_array import StoredArray
from passl.weights.reading import WeightFile

# What a backbone's file says: publisher -> (convention, {layer here: layer there}). ``{i}`` in
# both stands for the same number. A name that ends in brackets is that of one parameter instead,
# for those that are no layer's weight or bias; the brackets say its axes, ``1`` for one of length
# one: ``blocks.{i}.gamma[:]`` here, ``blocks.{i}.gamma[1, 1, :]`` there.
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
        layers: layer here to layer there, or a parameter in brackets.
    """

    def __init__(self, name: str, convention: str, layers: Mapping[str, str]):
        self.name, self.convention = name, convention
        self._dot = "/" if convention == "flax" else "."
        leaf = "(?P<leaf>kernel|scale|bias)" if convention == "flax" else "(?P<leaf>weight|bias)"
        pairs = [(_template(ours), _template(there)) for ours, there in layers.items()]
        for ours, there in pairs:
            assert (ours.axes is None) == (there.axes is None), f"{ours} is not {there}"
        self._from_there = [
            (_pattern(there, re.escape(self._dot) + leaf), ours) for ours, there in pairs
        ]
        self._from_here = [
            (_pattern(ours, r"\.(?P<leaf>weight|bias)"), there) for ours, there in pairs
        ]

    def to_here(self, name: str) -> Optional[str]:
        """Returns what an array called ``name`` there is called here; None if it is unknown."""
        found, leaf, _ = _translate(name, self._from_there)
        if not leaf:
            return found
        return f"{found}.{'bias' if leaf == 'bias' else 'weight'}"

    def to_there(self, name: str, axes: int) -> Optional[str]:
        """Returns what an array of ``axes`` axes is called there."""
        found, leaf, _ = _translate(name, self._from_here)
        if not leaf:
            return found
        if self.convention == "flax" and leaf == "weight":
            leaf = "scale" if axes == 1 else "kernel"
        return f"{found}{self._dot}{leaf}"

    def axes_here(self, name: str, array: StoredArray) -> StoredArray:
        """Returns an array called ``name`` there with the axes that it has here."""
        return _with_axes(array, _translate(name, self._from_there)[2])

    def axes_there(self, name: str, array: StoredArray) -> StoredArray:
        """Returns an array called ``name`` here with the axes that it has there."""
        return _with_axes(array, _translate(name, self._from_here)[2])


class _Template(NamedTuple):
    """A name in a table: of a layer, or of one parameter, and then with its axes."""

    name: str
    axes: Optional[Tuple[str, ...]]


def _template(text: str) -> _Template:
    name, bracket, axes = text.partition("[")
    return _Template(name, tuple(re.findall("[1:]", axes)) if bracket else None)


def _pattern(template: _Template, leaf: str) -> re.Pattern:
    number = re.escape(template.name).replace(r"\{i\}", r"(?P<i>\d+)")
    return re.compile(number + (leaf if template.axes is None else ""))


def _translate(
    name: str, table: List[Tuple[re.Pattern, _Template]]
) -> Tuple[Optional[str], str, Optional[Tuple[str, ...]]]:
    """Returns the other name, without weight or bias; which of the two; and the other axes."""
    for pattern, template in table:
        match = pattern.fullmatch(name)
        if match:
            parts = match.groupdict()
            other = template.name.replace("{i}", parts.get("i") or "")
            return other, parts.get("leaf") or "", template.axes
    return None, "", None


def _with_axes(array: StoredArray, axes: Optional[Sequence[str]]) -> StoredArray:
    """Returns an array with axes of length one put in or taken out; others stay as they are."""
    lengths = [n for n in array.shape if n != 1]
    if axes is None or len(lengths) != axes.count(":"):
        return array
    rest = iter(lengths)
    return array.reshaped([1 if axis == "1" else next(rest) for axis in axes])


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
            here[name]: best.axes_here(names[name], to_here(array, file.convention))
            for name, array in file.tensors.items()
            if here[name] is not None
        },
        [name for name in file.tensors if here[name] is None],
        {here[name]: cause for name, cause in file.refused.items() if here[name] is not None},
    )


def _known(naming: Naming, names: Iterable[str]) -> int:
    return sum(naming.to_here(name) is not None for name in names)
