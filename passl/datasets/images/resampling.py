"""Pillow's antialiased resizing, to the last bit, in less than half of its time.

Published accuracies were measured on pixels that Pillow resized, and its way is plain arithmetic
on integers: weights in fixed point, a pass along the rows to bytes, and one along the columns. The
same arithmetic is compiled here by numba, on arrays instead of Pillow's images, sixteen rows side
by side in a vector, and only for the part that is asked for. Other filters are left to Pillow, and
so is everything, with a warning, where this is found to give other pixels.
"""

from __future__ import annotations

import functools
import math
from typing import Callable, Optional, Sequence, Tuple

import numba
import numpy as np
import PIL
from PIL import Image

from passl.utils.compiled import compiled
from passl.utils.logging import logger

_BITS = 22  # of a weight behind the point: 32 less 8 of a pixel less 2 to spare, as in Pillow
_ROWS = 16  # that the first pass takes side by side
# Half the width of a filter's support, in pixels.
_SUPPORT = {Image.Resampling.BILINEAR: 1.0, Image.Resampling.BICUBIC: 2.0}
# Arguments of a pass: what to read (which may be read-only), first taps, weights, what to fill.
_PASS = numba.void(
    numba.types.Array(numba.uint8, 3, "C", readonly=True),
    numba.int32[::1],
    numba.int32[:, ::1],
    numba.uint8[:, :, ::1],
)
# Some versions of Pillow resize images taller than so many times their width in another way.
_TALLEST = 100


def resize(
    pixels: np.ndarray,
    size: Tuple[int, int],
    resample: Image.Resampling,
    box: Optional[Sequence[int]] = None,
    window: Optional[Sequence[int]] = None,
) -> np.ndarray:
    """Returns what ``Image.crop(box).resize(size, resample).crop(window)`` has in it.

    Args:
        pixels: uint8 ``[H, W, 3]``.
        size: width and height that the box is resized to.
        resample: a filter of Pillow's.
        box: left, upper, right and lower edge of the part to resize, within the image; default:
            all of it.
        window: the part of the result to return, within it; default: all of it.

    Returns:
        uint8 ``[h, w, 3]``.
    """
    left, upper, right, lower = box or (0, 0, pixels.shape[1], pixels.shape[0])
    window = tuple(window or (0, 0, *size))
    region = pixels[upper:lower, left:right]
    width, height = right - left, lower - upper
    if (width, height) == tuple(size):
        return region[window[1] : window[3], window[0] : window[2]]
    order = _pillows_order()
    if order is None or resample not in _SUPPORT or height > _TALLEST * width:
        return np.asarray(Image.fromarray(region).resize(size, resample).crop(window))
    return _resize(region, size, _SUPPORT[resample], window, order(width, height, *size))


def _resize(
    region: np.ndarray,
    size: Tuple[int, int],
    support: float,
    window: Sequence[int],
    columns_first: bool,
) -> np.ndarray:
    height, width = region.shape[:2]
    first_x, weights_x, left, right = _weights(width, size[0], support, window[0], window[2])
    first_y, weights_y, top, bottom = _weights(height, size[1], support, window[1], window[3])
    source = np.ascontiguousarray(region[top:bottom, left:right])
    result = np.empty((len(first_y), len(first_x), 3), np.uint8)
    if columns_first:
        between = np.empty((len(first_y), right - left, 3), np.uint8)
        _along_columns(source, first_y, weights_y, between)
        _along_rows(between, first_x, weights_x, result)
    else:
        between = np.empty((bottom - top, len(first_x), 3), np.uint8)
        _along_rows(source, first_x, weights_x, between)
        _along_columns(between, first_y, weights_y, result)
    return result


def _rows_first(width: int, height: int, new_width: int, new_height: int) -> bool:
    return False


def _what_shrinks_most_first(width: int, height: int, new_width: int, new_height: int) -> bool:
    # Pillow's pull request 9549; a pass that changes nothing is left out by either order.
    return new_height < height and height - new_height > 2 * (width - new_width)


@functools.lru_cache(maxsize=1)
def _pillows_order() -> Optional[Callable[[int, int, int, int], bool]]:
    """Returns when this version of Pillow takes the columns first; None if its pixels are others.

    Found by comparing, once a process: the compiler and the processor have a say in rounding.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (61, 75, 3), np.uint8)
    sizes = ((40, 33), (75, 20), (90, 20), (90, 100), (32, 61), (60, 45), (60, 31), (60, 30))
    cases = [
        (size, support, np.asarray(Image.fromarray(pixels).resize(size, resample)))
        for resample, support in _SUPPORT.items()
        for size in sizes
    ]
    for order in (_what_shrinks_most_first, _rows_first):
        if all(
            np.array_equal(
                _resize(pixels, size, support, (0, 0, *size), order(75, 61, *size)), expected
            )
            for size, support, expected in cases
        ):
            return order
    logger.warning("Pillow %s resizes in a way of its own: it is slower", PIL.__version__)
    return None


@compiled("f8(f8, f8)")
def _filter(x: float, support: float) -> float:
    x = abs(x)
    if support == 1.0:  # a triangle
        return max(0.0, 1.0 - x)
    # Keys, "Cubic convolution interpolation for digital image processing" (1981), with a = -1/2.
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return 0.0


@compiled("Tuple((i4[::1], i4[:, ::1], i8, i8))(i8, i8, f8, i8, i8)")
def _weights(
    old: int, new: int, support: float, begin: int, end: int
) -> Tuple[np.ndarray, np.ndarray, int, int]:
    """Works out what results ``begin`` to ``end`` of ``new`` are made of.

    Returns:
        where the taps of each result begin, int32 ``[n]``; their weights, int32 ``[n, taps]``; and
        from where to where ``old`` is needed: the taps are counted from there.
    """
    scale = old / new
    stretch = max(scale, 1.0)  # shrinking widens the filter: that is the antialiasing
    reach = support * stretch
    squeeze = 1.0 / stretch
    first = np.empty(end - begin, np.int32)
    weights = np.zeros((end - begin, math.ceil(reach) * 2 + 1), np.int32)
    taps = np.empty(weights.shape[1], np.float64)
    high = 0
    for i in range(end - begin):
        centre = (begin + i + 0.5) * scale
        low = max(int(centre - reach + 0.5), 0)
        high = min(int(centre + reach + 0.5), old)
        total = 0.0
        for k in range(high - low):
            taps[k] = _filter((k + low - centre + 0.5) * squeeze, support)
            total += taps[k]
        first[i] = low
        for k in range(high - low):
            weight = taps[k] / total * (1 << _BITS)
            weights[i, k] = int(weight - 0.5) if weight < 0 else int(weight + 0.5)
    needed = first[0]
    first -= needed
    return first, weights, needed, high


@compiled("u1(i4)")
def _to_byte(total: int) -> int:
    return min(max(total >> _BITS, 0), 255)


@compiled(_PASS)
def _along_rows(
    pixels: np.ndarray, first: np.ndarray, weights: np.ndarray, result: np.ndarray
) -> None:
    """Fills ``result``, uint8 ``[h, n, 3]``, from ``pixels``, uint8 ``[h, w, 3]``."""
    height, width = pixels.shape[:2]
    # Sixteen rows lie transposed, so that a tap is one multiplication of a vector. The last sixteen
    # may overlap those before: a loop of fixed length is the faster one.
    block = np.zeros(width * 3 * _ROWS, np.uint8)
    sums = np.empty(3 * _ROWS, np.int32)
    rows = min(_ROWS, height)
    for start in range(0, height, _ROWS):
        y = min(start, height - rows)
        for j in range(rows):
            for x in range(width):
                for c in range(3):
                    block[(x * 3 + c) * _ROWS + j] = pixels[y + j, x, c]
        for x in range(first.size):
            sums[:] = 1 << (_BITS - 1)  # a half: the sum is rounded
            for k in range(min(weights.shape[1], width - first[x])):
                weight = weights[x, k]
                if weight != 0:
                    begin = (first[x] + k) * 3 * _ROWS
                    taps = block[begin : begin + 3 * _ROWS]
                    for i in range(3 * _ROWS):
                        sums[i] += weight * np.int32(taps[i])
            for c in range(3):
                for j in range(rows):
                    result[y + j, x, c] = _to_byte(sums[c * _ROWS + j])


@compiled(_PASS)
def _along_columns(
    pixels: np.ndarray, first: np.ndarray, weights: np.ndarray, result: np.ndarray
) -> None:
    """Fills ``result``, uint8 ``[n, w, 3]``, from ``pixels``, uint8 ``[h, w, 3]``."""
    height, width = pixels.shape[:2]
    sums = np.empty(width * 3, np.int32)
    for y in range(first.size):
        sums[:] = 1 << (_BITS - 1)
        for k in range(min(weights.shape[1], height - first[y])):
            weight = weights[y, k]
            if weight != 0:
                row = pixels[first[y] + k].reshape(-1)
                for i in range(width * 3):
                    sums[i] += weight * np.int32(row[i])
        for x in range(width):
            for c in range(3):
                result[y, x, c] = _to_byte(sums[x * 3 + c])
