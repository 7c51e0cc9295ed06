"""Pictures of what the attention of a plain transformer goes to.

As figures 6 and 7 of "An Image is Worth 16x16 Words", arXiv 2010.11929.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from passl.datasets import Loader, SampleKey
from passl.deployment.predictor import prediction_batches
from passl.modeling.layers.attention import watched_attention
from passl.utils.contact_sheet import Cell, contact_sheet
from passl.utils.errors import PasslError
from passl.utils.whole_files import filling, replacing

_IMAGES = 8  # rows of the sheet
_STEPS = 4  # blocks that are shown


def mean_distances(weights: np.ndarray, before: int, grid: Tuple[int, int]) -> np.ndarray:
    """Returns how far each head looks on average: from patches to patches, by their weights.

    Args:
        weights: attention weights, ``[N, H, S, S]``.
        before: tokens before the patches, which have no place.
        grid: height and width in patches.

    Returns:
        float64 ``[H]``, in patches.
    """
    places = np.stack(np.mgrid[: grid[0], : grid[1]], axis=-1).reshape(-1, 2)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    among = weights[:, :, before:, before:].astype(np.float64)
    among = among / np.maximum(among.sum(axis=-1, keepdims=True), 1e-30)
    return (among * apart).sum(axis=-1).mean(axis=(0, 2))


def of_the_class_token(weights: np.ndarray, before: int, grid: Tuple[int, int]) -> np.ndarray:
    """Returns what the class token takes of each patch, the mean over heads, ``[N, H_p, W_p]``.

    Where there is no such token, what all patches take on average.
    """
    rows = weights[:, :, :1] if before else weights
    return rows[..., before:].mean(axis=(1, 2)).reshape(-1, *grid)


def lit(pixels: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Returns an image that is bright where attention is and dark elsewhere.

    Args:
        pixels: uint8 ``[height, width, 3]``.
        attention: float ``[H_p, W_p]``, at least 0.
    """
    share = (attention / max(float(attention.max()), 1e-30)).astype(np.float32)
    size = (pixels.shape[1], pixels.shape[0])
    share = np.asarray(Image.fromarray(share).resize(size, Image.Resampling.BILINEAR))
    return (pixels * (0.15 + 0.85 * share[..., None])).round().astype(np.uint8)


def draw_attention(architecture: Any, loader: Loader, folder: Path) -> List[Path]:
    """Draws how far each head looks, and what the class token looks at in some images.

    Args:
        architecture: its ``backbone`` is a plain transformer, which says what attention goes over
            (``attended``).
        loader: of the images; see ``passl.deployment.predictor.prediction_loader``.
        folder: where ``attention_distance.png`` and ``attention.png`` are written; it is made.

    Returns:
        The two files.

    Raises:
        PasslError: another network, or no image that can be read.
    """
    backbone = architecture.backbone
    if not hasattr(backbone, "attended"):
        raise PasslError(
            f"{type(backbone).__name__} has no attention from patch to patch that could be drawn; "
            "leave --images out"
        )
    before, grid, pixels_of_patch = backbone.attended
    distances: List[np.ndarray] = []
    rows: List[List[Cell]] = []
    count = 0
    for places, batch in prediction_batches(architecture, loader):
        weights: List[np.ndarray] = []
        with watched_attention(
            lambda _, found, weights=weights: weights.append(found.astype("float32").numpy())
        ):
            backbone(batch["image"])
        count += len(places)
        distances.append(
            len(places) * np.stack([mean_distances(block, before, grid) for block in weights])
        )
        for i, place in enumerate(places[: _IMAGES - len(rows)]):
            rows.append(_row(loader, place, [block[i : i + 1] for block in weights], before, grid))
    files: Dict[str, Any] = {
        "attention_distance.png": _chart(sum(distances) / count * pixels_of_patch, count),
        "attention.png": contact_sheet(rows),
    }
    with filling(folder):
        for name, picture in files.items():
            with replacing(folder / name) as aside:
                if isinstance(picture, Figure):
                    FigureCanvasAgg(picture).print_png(str(aside))
                else:
                    picture.save(aside, format="PNG")
    return [folder / name for name in files]


def _row(
    loader: Loader, place: int, weights: List[np.ndarray], before: int, grid: Tuple[int, int]
) -> List[Cell]:
    pixels = np.asarray(loader.dataset[SampleKey(place, 0, 0, 0)]["image"])
    row: List[Cell] = [(pixels, Path(loader.dataset.where(place)).name)]
    depth = len(weights)
    for step in sorted({max(depth * i // _STEPS, 1) for i in range(1, _STEPS + 1)}):
        (attention,) = of_the_class_token(weights[step - 1], before, grid)
        row.append((lit(pixels, attention), f"block {step} of {depth}"))
    return row


def _chart(distances: np.ndarray, images: int) -> Figure:
    """Draws distances ``[blocks, H]``, a dot for each head."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    depth, heads = distances.shape
    axes.plot(np.repeat(np.arange(1, depth + 1), heads), distances.reshape(-1), "o", alpha=0.6)
    means = distances.mean(axis=1)
    axes.plot(np.arange(1, depth + 1), means, color="0.4", label="mean of the heads")
    axes.set_xlabel("block")
    axes.set_ylabel("mean attention distance, pixels")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(f"How far attention goes, by depth: {heads} heads, {images} images")
    return figure
