"""Stochastic depth (Huang et al., arXiv 1603.09382)."""

from __future__ import annotations

from typing import List

import paddle
from paddle import nn

from passl.utils.errors import PasslError


class DropPath(nn.Layer):
    """Zeroes a residual branch for whole samples while training, and rescales the others.

    Args:
        rate: probability, in [0, 1), that a sample's branch is dropped.

    Shape:
        input and output: ``[N, ...]``, any floating dtype.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise PasslError(f"a drop path rate lies in [0, 1), not {rate}")
        self.rate = rate

    def forward(self, x):
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        shape = [x.shape[0]] + [1] * (x.ndim - 1)
        mask = paddle.bernoulli(paddle.full(shape, keep, dtype="float32")).astype(x.dtype)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def drop_path_rates(rate: float, depth: int, mode: str = "linear") -> List[float]:
    """Returns the drop path rate of each of ``depth`` blocks.

    Args:
        rate: the rate of the last block.
        depth: number of blocks.
        mode: ``linear`` rises from 0 at the first block (MLP-Mixer, appendix B); ``constant``
            is the same everywhere.
    """
    if not 0.0 <= rate < 1.0:
        raise PasslError(f"drop_path_rate lies in [0, 1), not {rate}")
    if mode == "constant":
        return [rate] * depth
    if mode == "linear":
        return [rate * i / max(depth - 1, 1) for i in range(depth)]
    raise PasslError(f"drop_path_mode is 'linear' or 'constant', not '{mode}'")
