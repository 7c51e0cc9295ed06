"""A head that waits for features, to know their size."""

from __future__ import annotations

from typing import Callable, Optional

from paddle import nn


class DeferredHead(nn.Layer):
    """Builds a head when it is first called; before, it has no parameters.

    Args:
        build: makes the head, given ``in_channels``.

    Shape:
        input: ``[N, in_channels]``; output: that of the head.

    Attributes:
        head: what was built; None before.
    """

    def __init__(self, build: Callable[..., nn.Layer]):
        super().__init__()
        self._build = build
        self.head: Optional[nn.Layer] = None

    def forward(self, features):
        if self.head is None:
            self.head = self._build(in_channels=features.shape[-1])
            if not self.training:
                self.head.eval()
        return self.head(features)

    def loss(self, outputs, batch):
        """Returns the loss of the head, which has been called before."""
        return self.head.loss(outputs, batch)
