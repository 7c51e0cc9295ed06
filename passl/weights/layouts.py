"""How conventions store a layer's numbers, and from one to another.

=========  ==================  ====================================  ==========================
           linear weight       convolution weight                    names of a layer's arrays
=========  ==================  ====================================  ==========================
paddle     ``[in, out]``       ``[out, in, height, width]``          ``weight``, ``bias``
torch      ``[out, in]``       ``[out, in, height, width]``          ``weight``, ``bias``
flax       ``[in, out]``       ``[height, width, in, out]``          ``kernel``, ``scale``, ``bias``
=========  ==================  ====================================  ==========================

Batch normalisation has its running statistics besides: ``_mean`` and ``_variance`` in Paddle,
``running_mean`` and ``running_var`` in torch, which also counts batches, ``num_batches_tracked``.

Flax's attention keeps the heads apart: ``query``, ``key`` and ``value`` map ``[in, heads, width]``
with a bias ``[heads, width]``, and ``out`` maps ``[heads, width, out]``.
"""

from __future__ import annotations

from typing import Any, List, Mapping, Sequence

import numpy as np

from passl.utils.errors import PasslError
from passl.utils.stored_array import StoredArray

_TO_HERE = {("torch", 2): (1, 0), ("flax", 4): (3, 2, 0, 1)}
_TO_THERE = {("torch", 2): (1, 0), ("flax", 4): (2, 3, 1, 0)}

# What a layer's arrays are called there -> here.
LEAVES = {
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
COUNTERS = {"torch": ("num_batches_tracked",)}

_APART = ("query", "key", "value")

# nn.Unfold lists the four pixels of a patch row by row, channel by channel; Swin's authors put
# whole pixels side by side, column by column.
_UNFOLDED = (0, 2, 1, 3)


def to_here(array: StoredArray, convention: str, layer: str) -> StoredArray:
    """Returns a layer's array of another convention in the layout of Paddle's layers.

    Args:
        array: a weight or bias.
        convention: whose layout it has.
        layer: what the layer is called there.
    """
    if convention == "flax":
        array = _heads_together(array, layer.rpartition("/")[2])
    axes = _TO_HERE.get((convention, len(array.shape)))
    return array.transposed(axes) if axes else array


def to_there(
    array: StoredArray, convention: str, layer: str = "", head_widths: Mapping[int, int] = {}
) -> StoredArray:
    """Returns a layer's array of Paddle's layout in that of another convention.

    Args:
        array: a weight or bias.
        convention: whose layout is wanted.
        layer: what the layer is called there.
        head_widths: channels of a network -> of one of its heads, which no array tells.
    """
    if convention == "flax":
        part = layer.rpartition("/")[2]
        if part in (*_APART, "out") and not (part == "out" and len(array.shape) == 1):
            return _heads_apart(array, part, head_widths)
    axes = _TO_THERE.get((convention, len(array.shape)))
    return array.transposed(axes) if axes else array


def _heads_together(array: StoredArray, part: str) -> StoredArray:
    shape = array.shape
    if part in _APART and len(shape) in (2, 3):
        return array.reshaped([*shape[:-2], shape[-2] * shape[-1]])
    if part == "out" and len(shape) == 3:
        return array.reshaped([shape[0] * shape[1], shape[2]])
    return array


def _heads_apart(array: StoredArray, part: str, head_widths: Mapping[int, int]) -> StoredArray:
    channels = array.shape[0 if part == "out" else -1]
    width = head_widths.get(channels)
    if width is None or channels % width:
        raise PasslError(
            f"how many heads a network of {channels} channels has is known for those of the papers "
            "alone, and Flax keeps heads apart; choose other names with --publisher"
        )
    heads = [channels // width, width]
    rest = list(array.shape)
    return array.reshaped([*heads, rest[1]] if part == "out" else [*rest[:-1], *heads])


def joined(parts: Sequence[StoredArray]) -> StoredArray:
    """Returns arrays of Paddle's layout side by side along the axis of the outputs, the last."""
    first = parts[0]
    if any(part.shape != first.shape or part.dtype != first.dtype for part in parts):
        return first  # its shape will not be that of the network, and is told
    shape = [*first.shape[:-1], first.shape[-1] * len(parts)]
    return StoredArray(
        shape, first.dtype, lambda: np.concatenate([part.read() for part in parts], axis=-1)
    )


def split(array: StoredArray, count: int) -> List[StoredArray]:
    """Returns ``count`` equal parts of an array along its last axis."""
    shape = [*array.shape[:-1], array.shape[-1] // count]

    def reader(i: int) -> Any:
        return lambda: np.split(array.read(), count, axis=-1)[i]

    return [StoredArray(shape, array.dtype, reader(i)) for i in range(count)]


def turned(array: StoredArray, order: str) -> StoredArray:
    """Returns a single parameter with its two axes swapped where a table says ``transposed``."""
    return array.transposed((1, 0)) if order == "transposed" and len(array.shape) == 2 else array


def in_order(array: StoredArray, order: str, back: bool = False) -> StoredArray:
    """Returns a merging layer's array with the channels of its four pixels as they are here.

    Args:
        array: in Paddle's layout; the first axis counts the channels of four pixels.
        order: what the table says of the file's order: ``unfold``, or nothing.
        back: the other way round.
    """
    if not order or array.shape[0] % 4:
        return array
    assert order == "unfold", order
    rest = array.shape[1:]
    channels = array.shape[0] // 4

    def read() -> np.ndarray:
        values = array.read()
        if back:
            pixels = values.reshape(4, channels, *rest)[list(np.argsort(_UNFOLDED))]
            return pixels.swapaxes(0, 1).reshape(array.shape)
        pixels = values.reshape(channels, 4, *rest).swapaxes(0, 1)
        return pixels[list(_UNFOLDED)].reshape(array.shape)

    return StoredArray(array.shape, array.dtype, read)
