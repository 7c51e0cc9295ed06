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

Batch normalisation has its running statistics besides: ``_mean`` and ``_variance`` in Paddle,
``running_mean`` and ``running_var`` in torch, which also counts batches, ``num_batches_tracked``.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from passl.utils.errors import PasslError, listing
from passl.utils.stored_array import StoredArray
from passl.weights.reading import WeightFile

# What a backbone's file says: publisher -> (convention, {layer here: layer there}), and, where
# there are any, a third item: names of arrays there that are no weights, such as indices that
# follow from the layer's arguments. ``{i}`` in here and there stands for the same number, and so
# does ``{j}``. A name that ends in brackets is that of one parameter instead, for those that are no
# layer's weight or bias; the brackets say its axes, ``1`` for one of length one:
# ``blocks.{i}.gamma[:]`` here, ``blocks.{i}.gamma[1, 1, :]`` there.
Table = Union[
    Tuple[str, Mapping[str, str]],
    Tuple[str, Mapping[str, str], Tuple[str, ...]],
]
ReleasedNames = Mapping[str, Table]

OWN = "passl"

# What wrappers (data parallelism, torch.compile, an outer module) put before every name.
_WRAPPERS = ("module.", "_layers.", "_orig_mod.", "model.", "net.", "network.")

_TO_HERE = {("torch", 2): (1, 0), ("flax", 4): (3, 2, 0, 1)}
_TO_THERE = {("torch", 2): (1, 0), ("flax", 4): (2, 3, 1, 0)}

# What a layer's arrays are called there -> here.
_LEAVES = {
    "paddle": {name: name for name in ("weight", "bias", "_mean", "_variance")},
    "torch": {
        "weight": "weight",
        "bias": "bias",
        "running_mean": "_mean",
        "running_var": "_variance",
    },
    "flax": {"kernel": "weight", "scale": "weight", "bias": "bias"},
}
# Arrays of known layers that are no weights: torch's batch norms count batches, for a momentum
# that nobody sets.
_NO_WEIGHTS = {"torch": ("num_batches_tracked",)}


class Naming:
    """One publisher's names for the layers of one family of networks.

    Args:
        name: the publisher (``timm``).
        convention: ``paddle``, ``torch`` or ``flax``.
        layers: layer here to layer there, or a parameter in brackets.
        no_weights: names of arrays there that are left out.
    """

    def __init__(
        self,
        name: str,
        convention: str,
        layers: Mapping[str, str],
        no_weights: Sequence[str] = (),
    ):
        self.name, self.convention = name, convention
        self._dot = "/" if convention == "flax" else "."
        pairs = [(_template(ours), _template(there)) for ours, there in layers.items()]
        for ours, there in pairs:
            assert (ours.axes is None) == (there.axes is None), f"{ours} is not {there}"
        leaf = re.escape(self._dot) + _any_of(_LEAVES[convention])
        here = r"\." + _any_of(_LEAVES["paddle"])
        self._from_there = [(_pattern(there, leaf), ours) for ours, there in pairs]
        self._from_here = [(_pattern(ours, here), there) for ours, there in pairs]
        counters = _NO_WEIGHTS.get(convention)
        self._left_out = [_pattern(_template(array), "") for array in no_weights]
        if counters:
            ending = re.escape(self._dot) + _any_of(counters)
            self._left_out += [_pattern(there, ending) for _, there in pairs if there.axes is None]

    def to_here(self, name: str) -> Optional[str]:
        """Returns what an array called ``name`` there is called here; None if it is unknown."""
        found, leaf, _ = _translate(name, self._from_there)
        return f"{found}.{_LEAVES[self.convention][leaf]}" if leaf else found

    def to_there(self, name: str, axes: int) -> Optional[str]:
        """Returns what an array of ``axes`` axes is called there."""
        layer, leaf, _ = _translate(name, self._from_here)
        if not leaf:
            return layer
        if self.convention == "flax" and leaf == "weight":
            return f"{layer}/{'scale' if axes == 1 else 'kernel'}"
        for there, here in _LEAVES[self.convention].items():
            if here == leaf:
                return f"{layer}{self._dot}{there}"
        return None

    def axes_here(self, name: str, array: StoredArray) -> StoredArray:
        """Returns an array called ``name`` there with the axes that it has here."""
        return _with_axes(array, _translate(name, self._from_there)[2])

    def axes_there(self, name: str, array: StoredArray) -> StoredArray:
        """Returns an array called ``name`` here with the axes that it has there."""
        return _with_axes(array, _translate(name, self._from_here)[2])

    def leaves_out(self, name: str) -> bool:
        """Tells whether an array called ``name`` there is known, and no weight."""
        return any(pattern.fullmatch(name) for pattern in self._left_out)

    def knows(self, name: str) -> bool:
        """Tells whether there is an array called ``name`` there."""
        return self.to_here(name) is not None or self.leaves_out(name)


class _Template(NamedTuple):
    """A name in a table: of a layer, or of one parameter, and then with its axes."""

    name: str
    axes: Optional[Tuple[str, ...]]


def _template(text: str) -> _Template:
    name, bracket, axes = text.partition("[")
    return _Template(name, tuple(re.findall("[1:]", axes)) if bracket else None)


def _any_of(leaves: Iterable[str]) -> str:
    return f"(?P<leaf>{'|'.join(map(re.escape, leaves))})"


def _pattern(template: _Template, leaf: str) -> re.Pattern:
    numbered = re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(template.name))
    return re.compile(numbered + (leaf if template.axes is None else ""))


def _translate(
    name: str, table: List[Tuple[re.Pattern, _Template]]
) -> Tuple[Optional[str], str, Optional[Tuple[str, ...]]]:
    """Returns the other name, without its leaf; the leaf here; and the axes of the other.

    The leaf (``weight``, ``bias``, …) is empty where the name is that of one parameter.
    """
    for pattern, template in table:
        match = pattern.fullmatch(name)
        if match:
            parts = match.groupdict()
            other = template.name
            for letter in "ij":
                other = other.replace(f"{{{letter}}}", parts.get(letter) or "")
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
    layers = [layer for entry in released_names.values() for layer in entry[1]]
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
        left_out: names in the file of what is known and no weight.
        refused: name here to what alone could have made its value.
    """

    publisher: str
    tensors: Dict[str, StoredArray]
    unexpected: List[str]
    refused: Dict[str, str]
    left_out: List[str] = dataclasses.field(default_factory=list)


def translate(file: WeightFile, released_names: ReleasedNames) -> Translation:
    """Finds out whose names a file uses, and translates them.

    Raises:
        PasslError: hardly any name is known.
    """
    if file.metadata and file.metadata.get("publisher", OWN) == OWN:  # in the names of today
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
        [name for name in file.tensors if not best.knows(names[name])],
        {here[name]: cause for name, cause in file.refused.items() if here[name] is not None},
        [name for name in file.tensors if best.leaves_out(names[name])],
    )


def _known(naming: Naming, names: Iterable[str]) -> int:
    return sum(naming.knows(name) for name in names)
