"""Pictures of what a network has learned.

As the authors of MLP-Mixer show it (figures 5 to 7 of arXiv 2105.01601), and those of ViT (figure 7
of arXiv 2010.11929).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from PIL import Image

from passl.utils.errors import PasslError
from passl.utils.whole_files import filling, replacing

_GAP = 2  # pixels between tiles


def frequency(kernels: np.ndarray) -> np.ndarray:
    """Returns the mean spatial frequency of kernels, weighted by their power spectrum.

    Args:
        kernels: float ``[n, H, W]``; the mean of each is left out.

    Returns:
        float64 ``[n]``, in cycles a pixel, between 0 and about 0.7.
    """
    kernels = np.asarray(kernels, np.float64)
    centred = kernels - kernels.mean(axis=(1, 2), keepdims=True)
    power = np.abs(np.fft.fft2(centred)) ** 2
    radius = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, kernels.shape[1:]), indexing="ij"))
    return (power * radius).sum(axis=(1, 2)) / np.maximum(power.sum(axis=(1, 2)), 1e-30)


def opposite_pairs(kernels: np.ndarray) -> np.ndarray:
    """Returns the kernels in pairs of opposite phase, the pairs by rising frequency.

    The two that are most nearly each other's negative are the first pair that is made, then the
    two most nearly so among the rest, and so on.

    Args:
        kernels: float ``[n, H, W]``.

    Returns:
        their places, int64 ``[n // 2, 2]``; of an odd number the last one is left out.
    """
    flat = kernels.reshape(len(kernels), -1).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-30)
    first, second = np.triu_indices(len(kernels), 1)
    free = np.ones(len(kernels), bool)
    pairs: List[List[int]] = []
    for place in np.argsort((flat @ flat.T)[first, second], kind="stable"):
        one, other = first[place], second[place]
        if free[one] and free[other]:
            free[one] = free[other] = False
            pairs.append([one, other])
    found = np.array(pairs, np.int64).reshape(-1, 2)
    return found[np.argsort(frequency(kernels)[found].mean(axis=1), kind="stable")]


def tiled(tiles: np.ndarray, columns: int, scale: int) -> Image.Image:
    """Returns tiles in rows on white, enlarged without smoothing.

    Args:
        tiles: uint8 ``[n, H, W, 3]``.
        columns: tiles a row.
        scale: pixels that a pixel becomes.
    """
    count, height, width = tiles.shape[:3]
    rows = -(-count // columns)
    height, width = height * scale, width * scale
    sheet = np.full(
        (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8
    )
    for i, tile in enumerate(tiles.repeat(scale, axis=1).repeat(scale, axis=2)):
        y = (i // columns) * (height + _GAP) + _GAP
        x = (i % columns) * (width + _GAP) + _GAP
        sheet[y : y + height, x : x + width] = tile
    return Image.fromarray(sheet)


def draw_token_mixing(kernels: np.ndarray) -> Image.Image:
    """Draws the hidden units of a token-mixing MLP as in figure 5: each over the patches it sees.

    Units stand in pairs of opposite phase, two and two side by side, low frequencies first. Zero
    is white, positive weights are red, negative ones blue; each tile has a scale of its own.

    Args:
        kernels: float ``[D_S, H, W]``.
    """
    order = opposite_pairs(kernels).reshape(-1)
    columns = 2 * max(1, round(math.sqrt(len(order) / 2)))
    return tiled(_red_and_blue(kernels[order]), columns, max(1, 56 // kernels.shape[-1]))


def _red_and_blue(maps: np.ndarray) -> np.ndarray:
    """Returns signed maps as tiles: zero white, positive red, negative blue, each by its scale."""
    chosen = maps.astype(np.float64)
    chosen = chosen / np.maximum(np.abs(chosen).max(axis=(1, 2), keepdims=True), 1e-30)
    fade = 1 - np.abs(chosen)
    red, blue = np.where(chosen >= 0, 1, fade), np.where(chosen <= 0, 1, fade)
    return (np.stack([red, fade, blue], axis=-1) * 255).round().astype(np.uint8)


def draw_relative_positions(maps: np.ndarray) -> Image.Image:
    """Draws what attention adds for each distance between two tokens, a tile for each head.

    The distance zero is in the middle; colours as in ``draw_token_mixing``.

    Args:
        maps: float ``[heads, 2·height - 1, 2·width - 1]``.
    """
    columns = max(1, round(math.sqrt(len(maps))))
    return tiled(_red_and_blue(maps), columns, max(1, 96 // maps.shape[-1]))


def draw_similarity(cosines: np.ndarray) -> Image.Image:
    """Draws how alike positions are as in figure 7 of ViT: a tile for each patch, in its place.

    Args:
        cosines: float ``[H, W, H, W]``; the tile of a patch shows its own, in its place, as 1.
    """
    height, width = cosines.shape[:2]
    tiles = _red_and_blue(cosines.reshape(-1, height, width))
    return tiled(tiles, width, max(1, 42 // width))


def draw_stem(kernels: np.ndarray) -> Image.Image:
    """Draws the kernels of the patch embedding as in figure 7, low frequencies first.

    Each is brought to the range of colours by itself.

    Args:
        kernels: float ``[C, 3, H, W]``.

    Raises:
        PasslError: they are not of images with three channels.
    """
    if kernels.shape[1] != 3:
        raise PasslError(f"a stem of {kernels.shape[1]} channels cannot be drawn in colours")
    order = np.argsort(frequency(kernels.mean(axis=1)), kind="stable")
    chosen = kernels[order].transpose(0, 2, 3, 1).astype(np.float64)
    chosen -= chosen.min(axis=(1, 2, 3), keepdims=True)
    chosen /= np.maximum(chosen.max(axis=(1, 2, 3), keepdims=True), 1e-30)
    columns = max(1, round(math.sqrt(1.5 * len(order))))
    tiles = (chosen * 255).round().astype(np.uint8)
    return tiled(tiles, columns, max(1, 48 // kernels.shape[-1]))


def visualize(backbone: Any, folder: Path) -> List[Path]:
    """Draws what a backbone says can be drawn of it.

    Args:
        backbone: has ``pictured_weights()``.
        folder: where to; it is made.

    Returns:
        The PNG files.

    Raises:
        PasslError: this backbone says nothing, or the files cannot be written.
    """
    if not hasattr(backbone, "pictured_weights"):
        raise PasslError(
            f"{type(backbone).__name__} does not say which of its weights are to be drawn"
        )
    draw = {
        "token_mixing": draw_token_mixing,
        "stem": draw_stem,
        "relative_positions": draw_relative_positions,
        "similarity": draw_similarity,
    }
    written: List[Path] = []
    weights: Dict[str, Any] = backbone.pictured_weights()
    with filling(folder):
        for name, (kind, kernels) in weights.items():
            written.append(folder / f"{name}.png")
            picture = draw[kind](kernels)
            with replacing(written[-1]) as aside:
                picture.save(aside, format="PNG")
    return written
