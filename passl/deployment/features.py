"""Features of images, and which images are near one another by them."""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
from tqdm import tqdm

from passl.datasets import Loader
from passl.deployment.predictor import check_answers, prediction_batches
from passl.modeling.architectures import Architecture
from passl.utils.logging import interactive

_QUERIES = 1024  # that are compared with all images at a time


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
    rows: List[np.ndarray] = []
    with tqdm(
        total=len(loader.dataset), unit="image", leave=False, disable=not interactive()
    ) as bar:
        for places, batch in prediction_batches(architecture, loader):
            found += places
            ours = architecture.backbone(batch["image"]).astype("float32")
            check_answers(loader, places, ours, "features")
            rows.append(ours.numpy())
            bar.update(len(places))
    return found, np.concatenate(rows)


def nearest(features: np.ndarray, queries: np.ndarray, count: int) -> Tuple[np.ndarray, np.ndarray]:
    """Returns the images that are most similar to some of them, by the cosine of their features.

    Args:
        features: of all images, ``[n, C]``.
        queries: places of those that are asked for, int64 ``[q]``; none is a neighbour of itself.
        count: k, the neighbours of each; fewer where there are no more.

    Returns:
        places ``[q, k]``, the most similar first, of equals the first; and similarities, float32
        ``[q, k]``.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    units = (features / np.maximum(lengths, 1e-12)).astype(np.float32)
    count = min(count, len(features) - 1)
    places = np.empty((len(queries), count), np.int64)
    similarity = np.empty((len(queries), count), np.float32)
    for begin in range(0, len(queries), _QUERIES):
        asked = queries[begin : begin + _QUERIES]
        cosines = units[asked] @ units.T
        cosines[np.arange(len(asked)), asked] = -np.inf
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        places[begin : begin + len(asked)] = order
        similarity[begin : begin + len(asked)] = np.take_along_axis(cosines, order, axis=1)
    return places, similarity
