"""Learned positions of one grid of patches, made into those of another.

Every publisher has a way of their own, and all differ; accuracies at another image size were
measured with the publisher's.

==================  ==========================================================================
way                 whose
==================  ==========================================================================
bilinear_aligned    Google: corners stay corners (``scipy.ndimage.zoom`` of order 1)
bilinear            timm, where it reads Google's files
bicubic             Facebook, unilm and others: ``torch.nn.functional.interpolate``, without
                    antialiasing
bicubic_antialias   timm: the same with antialiasing, which weighs neighbours otherwise even where
                    nothing gets smaller (a = -1/2 instead of -3/4)
==================  ==========================================================================
"""

from __future__ import annotations

import math
from typing import Sequence

import numpy as np


def resized_grid(grid: np.ndarray, size: Sequence[int], way: str) -> np.ndarray:
    """Returns a grid of vectors for another number of rows and columns.

    Args:
        grid: ``[h, w, C]``.
        size: the new height and width.
        way: see above.

    Returns:
        ``[size[0], size[1], C]``, of the dtype of ``grid``; computed in float64.
    """
    rows, columns = (_weights(old, new, way) for old, new in zip(grid.shape, size))
    values = np.einsum("yh,xw,hwc->yxc", rows, columns, grid.astype(np.float64), optimize=True)
    return values.astype(grid.dtype)


def resized_positions(
    positions: np.ndarray, before: int, size: Sequence[int], way: str
) -> np.ndarray:
    """Returns positions of tokens for another number of patches.

    Args:
        positions: ``[1, before + s², C]``, of a square grid of patches.
        before: tokens before the patches, whose positions stay.
        size: the new height and width in patches.
        way: see above.

    Returns:
        ``[1, before + size[0] · size[1], C]``, of the same dtype.
    """
    side = math.isqrt(positions.shape[1] - before)
    grid = resized_grid(positions[0, before:].reshape(side, side, -1), size, way)
    grid = grid.reshape(1, -1, positions.shape[2])
    return np.concatenate([positions[:, :before], grid], axis=1)


def _weights(old: int, new: int, way: str) -> np.ndarray:
    """Returns what each new place takes of each old one, ``[new, old]``."""
    if way == "bilinear_aligned":
        centres = np.arange(new) * ((old - 1) / max(new - 1, 1))
    else:
        centres = (np.arange(new) + 0.5) * (old / new) - 0.5
    if way == "bicubic_antialias":
        scale = max(old / new, 1.0)
        weights = _cubic((np.arange(old) - centres[:, None]) / scale, -0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    reach, kernel = {
        "bilinear_aligned": (1, _linear),
        "bilinear": (1, _linear),
        "bicubic": (2, lambda distance: _cubic(distance, -0.75)),
    }[way]
    weights = np.zeros((new, old))
    # Beyond the border, what is at the border.
    for offset in range(1 - reach, reach + 1):
        places = np.floor(centres).astype(int) + offset
        share = kernel(places - centres)
        np.add.at(weights, (np.arange(new), places.clip(0, old - 1)), share)
    return weights


def _linear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(distance), 0.0)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981, equation 15."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
