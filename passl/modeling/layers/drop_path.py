"""Stochastic depth (Huang et al., arXiv 1603.09382)."""

from __future__ import annotations

from typing import List

import paddle
from paddle import nn

from passl.utils.errors import PasslError


class DropPath(nn.Layer):
    """Zeroes a residual branch for whole samples while training.

    Args:
        rate: probability, in [0, 1), that a sample's branch is dropped.
        rescale: divide the branches that are left by ``1 - rate``, so that the mean stays what it
            is in evaluation, as timm and PyTorch do. The code that MLP-Mixer was trained with
            (big_vision, models/mlp_mixer.py) leaves them as they are, and evaluates with whole
            branches all the same.

    Shape:
        input and output: ``[N, ...]``, any floating dtype.
    """

    def __init__(self, rate: float = 0.0, rescale: bool = True):
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise PasslError(f"a drop path rate lies in [0, 1), not {rate}")
        self.rate, self.rescale = rate, rescale

    def forward(self, x):
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        shape = [x.shape[0]] + [1] * (x.ndim - 1)
        mask = paddle.bernoulli(paddle.full(shape, keep, dtype="float32")).astype(x.dtype)
        return x * (mask / keep if self.rescale else mask)

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
