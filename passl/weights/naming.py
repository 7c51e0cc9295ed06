"""Whose names a file uses, and what they are called here.

A backbone's file says as data what released files call its layers (``released_names``); this module
turns names, and with ``layouts`` the arrays that go with them, into PASSL's and back.
"""

from __future__ import annotations

import dataclasses
from typing import (
    Any,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from passl.utils.errors import PasslError, listing
from passl.utils.stored_array import StoredArray
from passl.weights.layouts import (
    COUNTERS,
    LEAVES,
    in_order,
    joined,
    split,
    to_here,
    to_there,
    turned,
)
from passl.weights.reading import WeightFile
from passl.weights.templates import EACH, Pattern, Template

# What a backbone's file says: publisher -> (convention, {layer here: layer there}), and, where
# there are any, options; see ``templates`` for how names are written. Several names there, in a
# tuple, are parts of the layer here, side by side along the axis of its outputs (queries, keys and
# values). ``*`` here: the one array there is that of all these layers.
Layers = Mapping[str, Union[str, Tuple[str, ...]]]
Table = Union[Tuple[str, Layers], Tuple[str, Layers, Mapping[str, Any]]]
ReleasedNames = Mapping[str, Table]

OWN = "passl"

# What wrappers (data parallelism, torch.compile, an outer module) put before every name.
_WRAPPERS = ("module.", "_layers.", "_orig_mod.", "model.", "net.", "network.")


class _Entry(NamedTuple):
    """A line of a table."""

    here: Template
    there: Tuple[Template, ...]


class _Place(NamedTuple):
    """What an array is here: the whole or a part of ``name``."""

    name: str
    entry: _Entry
    part: int


class Naming:
    """One publisher's names for the layers of one family of networks.

    Args:
        name: the publisher (``timm``).
        convention: ``paddle``, ``torch`` or ``flax``.
        layers: layer here to layer there, or a parameter in brackets.
        no_weights: names of arrays there that are left out; one that ends in ``.*`` stands for all
            that begin so.
        zeros: those of ``no_weights`` that are zeros in the publisher's files; where they are not,
            the file is another's with the same names.
        key: under which key, or one of which, the publisher's files keep the weights; it tells
            apart publishers who have the same names. Empty: at the top level, or under any.
        average: the accuracy that was published is that of the moving average which the files
            also hold, so that this is taken.
        may_lack: layers here that files without a head are without too, and that begin anew
            with it.
        head_widths: channels -> width of an attention head, see ``layouts.to_there``.
    """

    def __init__(
        self,
        name: str,
        convention: str,
        layers: Layers,
        no_weights: Sequence[str] = (),
        zeros: Sequence[str] = (),
        key: Union[str, Tuple[str, ...]] = (),
        average: bool = False,
        may_lack: Sequence[str] = (),
        head_widths: Optional[Mapping[int, int]] = None,
    ):
        self.name, self.convention = name, convention
        self.keys, self.average = (key,) if isinstance(key, str) else key, average
        self._head_widths = head_widths or {}
        self.zeros = frozenset(zeros)
        self._dot = "/" if convention == "flax" else "."
        self._from_there: List[Tuple[Pattern, _Entry, int]] = []
        self._from_here: List[Tuple[Pattern, _Entry]] = []
        ends = f"{self._dot}{EACH}"
        self._parts_left_out = tuple(n[: -len(EACH)] for n in no_weights if n.endswith(ends))
        arrays = [name for name in no_weights if not name.endswith(ends)]
        self._left_out = [Pattern(Template(array, ()), ()) for array in arrays]
        self._may_lack = [Pattern(Template(layer), LEAVES["paddle"]) for layer in may_lack]
        for ours, theirs in layers.items():
            there = (theirs,) if isinstance(theirs, str) else theirs
            entry = _Entry(Template.read(ours), tuple(map(Template.read, there)))
            kinds = {template.axes is None for template in (entry.here, *entry.there)}
            assert len(kinds) == 1, f"{ours} is not {theirs}"
            for part, template in enumerate(entry.there):
                pattern = Pattern(template, LEAVES[convention], self._dot)
                self._from_there.append((pattern, entry, part))
                if template.axes is None and convention in COUNTERS:
                    self._left_out.append(Pattern(template, COUNTERS[convention], self._dot))
            if EACH not in entry.here.name:
                self._from_here.append((Pattern(entry.here, LEAVES["paddle"]), entry))

    def place(self, name: str) -> Optional[_Place]:
        """Returns what an array called ``name`` there is here; None if it is unknown."""
        for pattern, entry, part in self._from_there:
            match = pattern.match(name)
            found = match and entry.here.filled(match[0])
            if found:
                leaf = match[1]
                ours = f"{found}.{LEAVES[self.convention][leaf]}" if leaf else found
                return _Place(ours, entry, part)
        return None

    def to_here(self, name: str) -> Optional[str]:
        """Returns what an array called ``name`` there is called here; None if it is unknown."""
        place = self.place(name)
        return place and place.name

    def to_there(self, name: str, axes: int) -> Optional[str]:
        """Returns what an array of ``axes`` axes is called there; of several parts, the first."""
        found = self._there(name, axes)
        return found[1][0] if found else None

    def read(self, name: str, array: StoredArray, convention: str) -> StoredArray:
        """Returns an array called ``name`` there as it is here."""
        place = self.place(name)
        assert place, name
        template = place.entry.there[place.part]
        if template.axes is not None:
            return place.entry.here.reshaped(turned(array, template.order))
        layer = name.rpartition(self._dot)[0]
        return in_order(to_here(array, convention, layer), template.order)

    def write(
        self, name: str, array: StoredArray, convention: Optional[str] = None
    ) -> Optional[Dict[str, StoredArray]]:
        """Returns what an array called ``name`` here is there, in one part or several.

        Args:
            name: None is returned where the publisher has no name for it.
            array: as it is here.
            convention: of the file; by default the publisher's.
        """
        found = self._there(name, len(array.shape))
        if not found:
            return None
        entry, names = found
        if entry.here.axes is not None:
            there = entry.there[0]
            return {names[0]: there.reshaped(turned(array, there.order))}
        parts = split(array, len(names)) if len(names) > 1 else [array]
        return {
            there: to_there(
                in_order(part, template.order, back=True),
                convention or self.convention,
                there.rpartition(self._dot)[0],
                self._head_widths,
            )
            for there, template, part in zip(names, entry.there, parts)
        }

    def fits_key(self, key: str) -> int:
        """Tells whether the publisher's files keep their weights under a key: 1, -1; 0: any."""
        return 0 if not self.keys else 1 if key in self.keys else -1

    def leaves_out(self, name: str) -> bool:
        """Tells whether an array called ``name`` there is known, and no weight."""
        return name.startswith(self._parts_left_out) or any(
            pattern.match(name) for pattern in self._left_out
        )

    def may_lack(self, name: str) -> bool:
        """Tells whether files without a head are without the array called ``name`` here."""
        return any(pattern.match(name) for pattern in self._may_lack)

    def knows(self, name: str) -> bool:
        """Tells whether there is an array called ``name`` there."""
        return self.place(name) is not None or self.leaves_out(name)

    def _there(self, name: str, axes: int) -> Optional[Tuple[_Entry, List[str]]]:
        for pattern, entry in self._from_here:
            match = pattern.match(name)
            layers = match and [template.filled(match[0]) for template in entry.there]
            if layers and all(layers):
                ending = self._leaf_there(match[1], axes)
                return entry, [f"{layer}{ending}" for layer in layers]
        return None

    def _leaf_there(self, leaf: str, axes: int) -> str:
        if not leaf:
            return ""
        if self.convention == "flax" and leaf == "weight":
            return f"{self._dot}{'scale' if axes == 1 else 'kernel'}"
        leaves = {here: there for there, here in LEAVES[self.convention].items()}
        return f"{self._dot}{leaves[leaf]}"


def namings(released_names: ReleasedNames) -> Dict[str, Naming]:
    """Returns all namings of a family, its own first."""
    layers = [layer.partition("|")[0] for entry in released_names.values() for layer in entry[1]]
    own = Naming(OWN, "paddle", {layer: layer for layer in layers if EACH not in layer})
    others = {
        name: Naming(name, *entry[:2], **(entry[2] if len(entry) > 2 else {}))
        for name, entry in released_names.items()
    }
    return {OWN: own, **others}


@dataclasses.dataclass
class Translation:
    """A file's tensors under the names used here.

    Attributes:
        publisher: whose names the file uses.
        tensors: name here to array, in Paddle's layout.
        unexpected: names in the file that mean nothing here.
        refused: name here to what alone could have made its value.
        left_out: names in the file of what is known and no weight.
        key: where in the file they stand.
        naming: the publisher's; None for today's own names.
    """

    publisher: str
    tensors: Dict[str, StoredArray]
    unexpected: List[str]
    refused: Dict[str, str]
    left_out: List[str] = dataclasses.field(default_factory=list)
    key: str = ""
    naming: Optional[Naming] = None


def translate(file: WeightFile, released_names: ReleasedNames) -> Translation:
    """Finds out whose names a file uses, and translates them.

    Raises:
        PasslError: hardly any name is known.
    """
    if file.metadata and file.metadata.get("publisher", OWN) == OWN:  # in the names of today
        return Translation(OWN, dict(file.tensors), [], {}, key=file.key)
    found = _translate(file, file.key, released_names)
    averages = file.averages()
    if found.naming.average and averages and not file.key_was_chosen:
        return _translate(file, averages[0], released_names)
    return found


def _translate(file: WeightFile, key: str, released_names: ReleasedNames) -> Translation:
    tensors, refused = file.groups[key], file.refused_under(key)
    names = {name: name for name in [*tensors, *refused]}
    for _ in range(3):  # wrappers of wrappers
        for wrapper in _WRAPPERS:
            if all(inner.startswith(wrapper) for inner in names.values()):
                names = {name: inner[len(wrapper) :] for name, inner in names.items()}
    # The publisher who knows most of the names, whose zeros are zeros, whose files store layers so,
    # and keep them in this place; the order of the table settles a tie.
    best = max(
        namings(released_names).values(),
        key=lambda naming: (
            _known(naming, names.values()),
            _has_its_zeros(naming, file, names, tensors),
            naming.name == OWN or naming.convention == file.convention,
            naming.fits_key(key),
        ),
    )
    places = {name: best.place(inner) for name, inner in names.items()}
    if 2 * _known(best, names.values()) < len(tensors):
        raise PasslError(
            f"{file.path}: its names belong to no release of this network that is known "
            f"({listing(released_names)}); it begins with {listing(list(tensors)[:3])}"
        )
    read = {
        name: best.read(names[name], array, file.convention)
        for name, array in tensors.items()
        if places[name] is not None
    }
    here, incomplete = _put_together({name: (places[name], array) for name, array in read.items()})
    return Translation(
        best.name,
        here,
        [name for name in tensors if not best.knows(names[name])] + incomplete,
        {places[name].name: cause for name, cause in refused.items() if places[name] is not None},
        [name for name in tensors if best.leaves_out(names[name])],
        key,
        best,
    )


def _put_together(
    read: Mapping[str, Tuple[_Place, StoredArray]],
) -> Tuple[Dict[str, StoredArray], List[str]]:
    """Returns arrays by their names here, and names in the file of parts without the others."""
    parts: Dict[str, List[Optional[StoredArray]]] = {}
    for place, array in read.values():
        parts.setdefault(place.name, [None] * len(place.entry.there))[place.part] = array
    here: Dict[str, StoredArray] = {}
    for name, found in parts.items():
        present = [part for part in found if part is not None]
        if len(present) == len(found):
            here[name] = joined(present) if len(present) > 1 else present[0]
    incomplete = [name for name, (place, _) in read.items() if place.name not in here]
    return _of_each(here), incomplete


def _of_each(tensors: Dict[str, StoredArray]) -> Dict[str, StoredArray]:
    """Gives what one array is for all layers to each of those that the file has anything of."""
    whole = {name: array for name, array in tensors.items() if EACH not in name}
    for name, array in tensors.items():
        before, star, after = name.partition(EACH)
        if star:
            numbers = {n[len(before) :].partition(".")[0] for n in whole if n.startswith(before)}
            whole.update({f"{before}{number}{after}": array for number in sorted(numbers)})
    return whole


def _has_its_zeros(
    naming: Naming, file: WeightFile, names: Mapping[str, str], tensors: Mapping[str, StoredArray]
) -> bool:
    for name, array in tensors.items():
        if names[name] in naming.zeros:
            with file.reading(name):
                if array.read().any():
                    return False
    return True


def _known(naming: Naming, names: Iterable[str]) -> int:
    return sum(naming.knows(name) for name in names)
