"""Names with numbers in them, as tables of released names write them.

``blocks.{i}.norm1`` is that layer of any block; ``{i}`` stands for the same number here and there,
and so does ``{j}``. ``layers.{i+1}`` counts from one more. ``blocks.*.table`` is all such layers at
once. A name that ends in brackets is that of one parameter, for those that are no layer's weight or
bias; the brackets say its axes, ``1`` for one of length one: ``gamma[1, 1, :]``. A name that ends
in ``|unfold`` has its input channels in another order, one that ends in ``|transposed`` its two
axes, see ``layouts``. Of the lines of a table that fit a name, the first counts.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Dict, Iterable, Optional, Tuple

from passl.utils.stored_array import StoredArray

_NUMBER = re.compile(r"\{(\w)(?:\+(\d+))?\}")
EACH = "*"


@dataclasses.dataclass(frozen=True)
class Template:
    """One name of a table.

    Attributes:
        name: without what follows the name.
        axes: ``1`` or ``:`` for each axis of a single parameter; None for a layer.
        order: what is said of the order of the channels; empty where it is the usual one.
    """

    name: str
    axes: Optional[Tuple[str, ...]] = None
    order: str = ""

    @classmethod
    def read(cls, text: str) -> Template:
        """Reads what a table says."""
        text, _, order = text.partition("|")
        name, bracket, axes = text.partition("[")
        return cls(name, tuple(re.findall("[1:]", axes)) if bracket else None, order)

    def filled(self, numbers: Dict[str, int]) -> Optional[str]:
        """Returns the name with its numbers; None where one would be negative."""
        shifted = {
            match.group(0): numbers.get(match.group(1), 0) + int(match.group(2) or 0)
            for match in _NUMBER.finditer(self.name)
        }
        if any(number < 0 for number in shifted.values()):
            return None
        name = self.name
        for written, number in shifted.items():
            name = name.replace(written, str(number))
        return name

    def reshaped(self, array: StoredArray) -> StoredArray:
        """Returns an array with axes of length one put in or taken out, as the brackets say."""
        lengths = [n for n in array.shape if n != 1]
        if self.axes is None or len(lengths) != self.axes.count(":"):
            return array
        rest = iter(lengths)
        return array.reshaped([1 if axis == "1" else next(rest) for axis in self.axes])


class Pattern:
    """Recognises the names of a template.

    Args:
        template: of a layer, whose arrays have further names (``leaves``), or of one parameter.
        leaves: what may follow the name of a layer, behind ``dot``.
        dot: what stands between a layer and its arrays.
    """

    def __init__(self, template: Template, leaves: Iterable[str], dot: str = "."):
        self._shifts = {
            match.group(1): int(match.group(2) or 0) for match in _NUMBER.finditer(template.name)
        }
        # Only one way to write a number, so that no two names mean the same.
        text, seen = "", set()
        pieces = re.split(r"(\{\w(?:\+\d+)?\})", template.name)
        for piece in pieces:
            match = _NUMBER.fullmatch(piece)
            if not match:
                text += re.escape(piece)
            elif match.group(1) in seen:
                text += rf"(?P={match.group(1)})"
            else:
                seen.add(match.group(1))
                text += rf"(?P<{match.group(1)}>0|[1-9]\d{{0,8}})"
        if template.axes is None:
            text += re.escape(dot) + f"(?P<leaf>{'|'.join(map(re.escape, leaves))})"
        self._pattern = re.compile(text)

    def match(self, name: str) -> Optional[Tuple[Dict[str, int], str]]:
        """Returns the numbers in a name, and its leaf (empty for a parameter); None: another."""
        match = self._pattern.fullmatch(name)
        if not match:
            return None
        parts = match.groupdict()
        leaf = parts.pop("leaf", None) or ""
        return {key: int(value) - self._shifts[key] for key, value in parts.items()}, leaf
