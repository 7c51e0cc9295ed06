"""Relative positions inside a window: which row of a table belongs to which pair of tokens.

A table has a row for every distance (dy, dx) between two tokens of a window of h×w, and a column
for every head. Liu et al., "Swin Transformer", arXiv 2103.14030, equation 4; Bao et al., "BEiT",
arXiv 2106.08254, section 2.2.
"""

from __future__ import annotations

from typing import Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F

from passl.modeling.layers.position_grids import resized_grid
from passl.utils.errors import PasslError

# Rows at the end of BEiT's tables: from the class token to a patch, from a patch to the class
# token, from the class token to itself.
CLASS_ROWS = 3


def window_index(height: int, width: int) -> np.ndarray:
    """Returns the row of a window's table for each pair of tokens, int64 ``[S, S]``.

    ``[i, j]`` is for the query i and the key j, in raster order: the distance (dy, dx) from j to i,
    both counted from the most negative one.
    """
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    dy = y[:, None] - y[None, :] + height - 1
    dx = x[:, None] - x[None, :] + width - 1
    return dy * (2 * width - 1) + dx


def class_token_index(height: int, width: int) -> np.ndarray:
    """Returns the same with a class token before the patches, int64 ``[1 + S, 1 + S]``."""
    distances = (2 * height - 1) * (2 * width - 1)
    index = np.pad(window_index(height, width), ((1, 0), (1, 0)))
    index[0, :] = distances
    index[:, 0] = distances + 1
    index[0, 0] = distances + 2
    return index


def look_up(table: paddle.Tensor, index: paddle.Tensor) -> paddle.Tensor:
    """Returns what is added to the attention's scores.

    Args:
        table: ``[rows, H]``.
        index: int64 ``[S, T]``.

    Returns:
        ``[H, S, T]``.
    """
    # ``network.to(dtype=…)`` casts what is no number of the network too: float64 still holds it.
    if "16" in str(index.dtype) and "int" not in str(index.dtype):
        raise PasslError(
            "the network's index of relative positions was rounded to 16 bits, as "
            "network.to(dtype=...) does; cast its parameters alone, with network.float16() or "
            "network.bfloat16(), or use paddle.amp"
        )
    # Not index_select, whose gradient on a GPU is added up in any order, whatever is asked for.
    return F.embedding(index.astype("int64"), table).transpose([2, 0, 1])


def resized_table(
    table: np.ndarray, window: Sequence[int], way: str, extra_rows: int = 0
) -> np.ndarray:
    """Returns a released table for windows of another size.

    Args:
        table: ``[(2·h - 1)·(2·w - 1) + extra_rows, H]``, of square windows.
        window: the new height and width.
        way: ``bicubic`` (Microsoft's Swin: as an image), ``geometric_cubic`` (BEiT's authors) or
            ``geometric_linear`` (timm): on a grid that is denser near the centre, because near
            distances matter more.
        extra_rows: rows at the end that stay as they are.

    Returns:
        ``[rows, H]`` of the new window, of the dtype of ``table``.

    Raises:
        PasslError: the table is of no square window.
    """
    count = len(table) - extra_rows
    side = round(count**0.5)
    if side * side != count or side % 2 == 0:
        raise PasslError(
            f"it has {len(table)} rows, which are not those of a square window's distances; build "
            "the network with the window of the file"
        )
    rest, grid = table[count:], table[:count].reshape(side, side, -1)
    size = tuple(2 * length - 1 for length in window)
    if way == "bicubic":
        new = resized_grid(grid, size, "bicubic")
    else:
        new = _on_geometric_grid(grid, size, cubic=way == "geometric_cubic")
    return np.concatenate([new.reshape(-1, grid.shape[-1]), rest])


def _on_geometric_grid(grid: np.ndarray, size: Tuple[int, int], cubic: bool) -> np.ndarray:
    values = grid.astype(np.float64)
    for axis, new in enumerate(size):
        old = grid.shape[axis]
        at = np.arange(new) - new // 2
        places = _geometric_places(old, new)
        weights = _spline(places, at) if cubic else _piecewise(places, at)
        values = np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)
    return values.astype(grid.dtype)


def _geometric_places(old: int, new: int) -> np.ndarray:
    """Returns where the old distances lie among the new ones: 0, ±1, ±(1 + q), ±(1 + q + q²), …

    q is such that the outermost old one falls on the outermost new one, found by halving to 1e-6 as
    BEiT's authors do.
    """
    steps, reach = old // 2, new // 2
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        if (1 - q**steps) / (1 - q) > reach:
            high = q
        else:
            low = q
    right = np.cumsum(q ** np.arange(steps))
    return np.concatenate([-right[::-1], [0.0], right])


def _piecewise(places: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Returns the weights of linear interpolation, ``[len(at), len(places)]``."""
    return np.stack([np.interp(at, places, row) for row in np.eye(len(places))], axis=1)


def _spline(places: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Returns the weights of the cubic spline without a knot at the second place from each end.

    Beyond the outermost places it stays what it is there. De Boor, "A Practical Guide to Splines",
    chapter IV. With unknown second derivatives m: the usual equations inside, and equal third
    derivatives on both sides of the second and the last place but one.
    """
    n, h = len(places), np.diff(places)
    if n < 4:
        return _piecewise(places, at)
    system, right = np.zeros((n, n)), np.zeros((n, n))
    for i in range(1, n - 1):
        system[i, i - 1 : i + 2] = h[i - 1], 2 * (h[i - 1] + h[i]), h[i]
        right[i, i - 1 : i + 2] = 6 / h[i - 1], -6 / h[i - 1] - 6 / h[i], 6 / h[i]
    system[0, :3] = h[1], -(h[0] + h[1]), h[0]
    system[-1, -3:] = h[-1], -(h[-2] + h[-1]), h[-2]
    curvature = np.linalg.solve(system, right)  # [n, n]: of each place, by each value
    at = np.clip(at, places[0], places[-1])
    left = np.clip(np.searchsorted(places, at, side="right") - 1, 0, n - 2)
    width, a = h[left], (places[left + 1] - at) / h[left]
    b = 1 - a
    weights = np.zeros((len(at), n))
    rows = np.arange(len(at))
    weights[rows, left] += a
    weights[rows, left + 1] += b
    weights += ((a**3 - a) * width**2 / 6)[:, None] * curvature[left]
    weights += ((b**3 - b) * width**2 / 6)[:, None] * curvature[left + 1]
    return weights
