"""Fixed positions of sines and cosines."""

from __future__ import annotations

from typing import Tuple

import numpy as np

from passl.utils.errors import PasslError


def sincos_positions(grid: Tuple[int, int], channels: int) -> np.ndarray:
    """Returns positions on a plane, a quarter of the channels each for sin x, cos x, sin y, cos y.

    Beyer, Zhai, Kolesnikov: "Better plain ViT baselines for ImageNet-1k", arXiv 2205.01580; as in
    big_vision, models/vit.py. The wave lengths rise from 2π to 10000·2π.

    Args:
        grid: height and width in patches.
        channels: C, a multiple of 4.

    Returns:
        ``[height · width, C]``, float64, in raster order.

    Raises:
        PasslError: other channels.
    """
    if channels % 4 or channels < 8:
        raise PasslError(
            f"positions='sincos' needs a multiple of 4 channels, at least 8, not {channels}"
        )
    omega = 10000.0 ** -(np.arange(channels // 4) / (channels // 4 - 1))
    y, x = np.mgrid[: grid[0], : grid[1]].reshape(2, -1, 1) * omega
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
