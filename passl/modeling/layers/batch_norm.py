"""Batch normalisation whose running statistics are no parameters."""

from __future__ import annotations

import paddle
from paddle import nn


class BatchNorm2D(nn.BatchNorm2D):
    """Paddle's, with the running mean and variance as buffers.

    Paddle keeps them among the parameters, where they would be counted as what a network learns.
    They are in its state all the same, under the same names, ``_mean`` and ``_variance``.

    Args:
        channels: C.
        momentum: share of the old statistics that stays; Paddle's 0.9 is torch's 0.1.
        epsilon: added to the variance.

    Shape:
        input and output: ``[N, C, H, W]``.
    """

    def __init__(self, channels: int, momentum: float = 0.9, epsilon: float = 1e-5):
        super().__init__(channels, momentum=momentum, epsilon=epsilon)
        for name, value in (("_mean", 0.0), ("_variance", 1.0)):
            del self._parameters[name]
            self.register_buffer(name, paddle.full([channels], value, dtype="float32"))
