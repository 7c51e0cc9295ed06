"""Linear maps, GELU and layer normalisation; their parameters and names are Paddle's."""

from __future__ import annotations

from paddle import nn

from passl.modeling.layers import functional


class Linear(nn.Linear):
    """A linear map of the last axis.

    Args:
        in_features, out_features, weight_attr, bias_attr: as of ``paddle.nn.Linear``.

    Shape:
        input: ``[..., in_features]``; output: ``[..., out_features]``.
    """

    def forward(self, x):
        return functional.linear(x, self.weight, self.bias)


class GELU(nn.GELU):
    """GELU, element by element; the exact form unless ``approximate``."""

    def forward(self, x):
        return functional.gelu(x, self._approximate)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis.

    Args:
        channels: its size, C.
        epsilon: added to the variance.

    Shape:
        input and output: ``[..., C]``.
    """

    def __init__(self, channels: int, epsilon: float = 1e-5):
        super().__init__(channels, epsilon=epsilon)

    def forward(self, x):
        return functional.layer_norm(x, self.weight, self.bias, self._epsilon)
