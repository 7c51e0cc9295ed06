"""Features of images, and which images are near one another by them."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
import paddle
from tqdm import tqdm

from passl.datasets import Loader
from passl.deployment.predictor import check_answers, prediction_batches
from passl.modeling.architectures import Architecture
from passl.utils.logging import interactive

# Compared at a time: of 100,000 images, with 2048 features each, that takes 300 MB.
_QUERIES, _IMAGES = 64, 4096
_DECIMALS = 9  # of a similarity; what differs later is rounding, and equal images are equally near


def features(architecture: Architecture, loader: Loader) -> Tuple[List[int], np.ndarray]:
    """Returns the places of the images that can be read, and the backbone's pooled features.

    Args:
        architecture: has a ``backbone``.
        loader: see ``prediction_loader``.

    Returns:
        the places in the loader's set, rising, and float32 ``[n, C]``.

    Raises:
        PasslError: at an image for which they are not finite.
    """
    found: List[int] = []
    rows = np.empty((0, 0), np.float32)
    for places, ours, _ in embedded(architecture, loader, architecture.backbone, "features"):
        if not found:  # once and for all, as they take most of the memory
            rows = np.empty((len(loader.dataset), ours.shape[1]), np.float32)
        rows[len(found) : len(found) + len(places)] = ours
        found += places
    return found, rows[: len(found)]


def embedded(
    architecture: Architecture,
    loader: Loader,
    embed: Callable[[paddle.Tensor], paddle.Tensor],
    what: str,
    none_will_do: bool = False,
) -> Iterator[Tuple[List[int], np.ndarray, Dict[str, Any]]]:
    """Yields what a network makes of the images that can be read, batch by batch.

    Args:
        architecture: the network.
        loader: see ``prediction_loader``.
        embed: what of it takes images ``[N, C, H, W]`` and gives ``[N, d]``.
        what: these numbers are called in a message.
        none_will_do: whether it is no mistake that not one image can be read.

    Yields:
        the places in the loader's set, rising; float32 ``[N, d]``; the batch.

    Raises:
        PasslError: at an image for which they are not finite.
    """
    with tqdm(
        total=len(loader.dataset), unit="image", leave=False, disable=not interactive()
    ) as bar:
        for places, batch in prediction_batches(architecture, loader, none_will_do):
            rows = embed(batch["image"]).astype("float32")
            check_answers(loader, places, rows, what)
            yield places, rows.numpy(), batch
            bar.update(len(places))


def nearest(features: np.ndarray, queries: np.ndarray, count: int) -> Tuple[np.ndarray, np.ndarray]:
    """Returns the images that are most similar to some of them, by the cosine of their features.

    Args:
        features: of all images, ``[n, C]``.
        queries: places of those that are asked for, int64 ``[q]``; none is a neighbour of itself.
        count: k, the neighbours of each; fewer where there are no more.

    Returns:
        places ``[q, k]``, the most similar first, of equals the first; and similarities, float64
        ``[q, k]``. Features that are all zero have the similarity 0 with everything.
    """
    count = min(count, len(features) - 1)
    return most_similar(features, features[queries], count, queries)


def most_similar(
    features: np.ndarray, queries: np.ndarray, count: int, without: Optional[np.ndarray] = None
) -> Tuple[np.ndarray, np.ndarray]:
    """Returns the features that are most similar to queries, by their cosine.

    Args:
        features: of all images, ``[n, C]``.
        queries: ``[q, C]``.
        count: k, how many of each; at most n, or one less where one is left out.
        without: of each query the place that is no answer to it, int64 ``[q]``; -1 for none.

    Returns:
        places ``[q, k]``, the most similar first, of equals the first; and similarities, float64
        ``[q, k]``.
    """
    places = np.empty((len(queries), count), np.int64)
    similarity = np.empty((len(queries), count))
    for begin in range(0, len(queries), _QUERIES):
        asked = slice(begin, min(begin + _QUERIES, len(queries)))
        units = _units(queries[asked])
        cosines = np.empty((len(units), len(features)))
        for start in range(0, len(features), _IMAGES):
            images = slice(start, start + _IMAGES)
            cosines[:, images] = units @ _units(features[images]).T
        np.round(cosines, _DECIMALS, out=cosines)
        if without is not None:
            rows = np.flatnonzero(without[asked] >= 0)
            cosines[rows, without[asked][rows]] = -np.inf
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        places[asked] = order
        similarity[asked] = np.take_along_axis(cosines, order, axis=1)
    return places, similarity


def _units(features: np.ndarray) -> np.ndarray:
    """Returns features ``[n, C]`` on the unit sphere, float64."""
    wide = features.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-30)
