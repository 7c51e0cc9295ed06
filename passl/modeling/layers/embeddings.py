"""Embeddings on the unit sphere, which contrastive losses compare, and how they lie there."""

from __future__ import annotations

import numpy as np
import paddle

from passl.utils.widened import widened


def unit(embeddings: paddle.Tensor, epsilon: float = 1e-12) -> paddle.Tensor:
    """Returns embeddings divided by their L2 norms, in float32 at least.

    Args:
        embeddings: ``[N, d]``.
        epsilon: the least norm that they are divided by.
    """
    embeddings = widened(embeddings)
    squares = embeddings.square().sum(axis=1, keepdim=True)
    # Not F.normalize, whose gradient has epsilon added to the norm.
    return embeddings * paddle.rsqrt(paddle.clip(squares, min=epsilon**2))


@paddle.no_grad()
def spread(embeddings: paddle.Tensor) -> paddle.Tensor:
    """Returns how far embeddings spread over the sphere: 1 if evenly, 0 if all are the same.

    It is the standard deviation of each coordinate over the batch, its mean over the coordinates,
    times √d: evenly spread unit vectors have one of 1 / √d (Chen and He, "Exploring Simple Siamese
    Representation Learning", arXiv 2011.10566, section 4.1).

    Args:
        embeddings: unit vectors ``[N, d]``.

    Returns:
        a scalar.
    """
    deviations = embeddings - embeddings.mean(axis=0, keepdim=True)
    per_coordinate = deviations.square().mean(axis=0).sqrt()
    return per_coordinate.mean() * embeddings.shape[1] ** 0.5


@paddle.no_grad()
def effective_rank(embeddings: paddle.Tensor) -> float:
    """Returns in how many dimensions embeddings lie, from 1 to d.

    It is e to the power of the entropy of their singular values, divided by the sum of these (Roy
    and Vetterli, "The Effective Rank", EUSIPCO 2007; of embeddings, Garrido et al., "RankMe", arXiv
    2210.02885, equation 1). Nothing is subtracted from them first.

    Args:
        embeddings: ``[N, d]``.
    """
    products = (embeddings.T @ embeddings).numpy().astype(np.float64)
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(products), 0.0))
    shares = singular[singular > 0] / singular.sum()  # none of zeros alone, which are one point
    return float(np.exp(-(shares * np.log(shares)).sum()))
