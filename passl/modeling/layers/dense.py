"""Linear maps, convolutions, GELUs and layer normalisation, with Paddle's parameters and names."""

from __future__ import annotations

from typing import Any, Sequence, Tuple, Union

import paddle.nn.functional as F
from paddle import nn

from passl.modeling.layers import functional

Size = Union[int, Sequence[int]]


class Linear(nn.Linear):
    """A linear map of the last axis.

    Args:
        in_features, out_features, weight_attr, bias_attr: as of ``paddle.nn.Linear``.

    Shape:
        input: ``[..., in_features]``; output: ``[..., out_features]``.
    """

    def forward(self, x):
        return functional.linear(x, self.weight, self.bias)


class Conv2D(nn.Conv2D):
    """A convolution of images.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, bias_attr: as of
            ``paddle.nn.Conv2D``, which has more; sizes are one number or two.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, out_channels, H', W']``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        bias_attr: Any = None,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, bias_attr=bias_attr
        )
        self._pairs = _pair(stride), _pair(padding)

    def forward(self, x):
        return functional.conv2d(x, self.weight, self.bias, *self._pairs)


class DepthwiseConv2D(nn.Conv2D):
    """A convolution of each channel by itself, without bias, of the size of the input.

    Args:
        channels: C.
        kernel_size: an odd number.

    Shape:
        input and output: ``[N, H, W, C]``; weight: ``[C, 1, kernel_size, kernel_size]``.
    """

    def __init__(self, channels: int, kernel_size: int):
        super().__init__(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels,
            bias_attr=False,
        )  # fmt: skip

    def forward(self, x):
        return functional.depthwise_conv2d(x, self.weight)


class GELU(nn.GELU):
    """GELU, element by element; the exact form unless ``approximate``."""

    def forward(self, x):
        return functional.gelu(x, self._approximate)


class QuickGELU(nn.Layer):
    """GELU's approximation by a sigmoid, x σ(1.702 x), element by element.

    Hendrycks and Gimpel, arXiv 1606.08415, section 2. CvT and CLIP were trained with it: it differs
    from GELU by up to 0.02, so that the one does not stand in for the other.
    """

    def forward(self, x):
        # As SiLU (x σ(x)) on another scale: one operation and one tensor kept instead of two.
        return F.silu(1.702 * x) / 1.702


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


def _pair(size: Size) -> Tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
