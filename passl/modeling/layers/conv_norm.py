"""A convolution without bias and the batch normalisation behind it."""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import nn

from passl.modeling.layers.batch_norm import BatchNorm2D
from passl.modeling.layers.dense import Conv2D


class SameConv2D(Conv2D):
    """A convolution without bias, padded as TensorFlow's ``SAME`` pads.

    By as much as makes the output ``⌈H / stride⌉``, half of it before and half behind; where it is
    odd, the larger part comes behind. A 7×7 convolution of stride 2 has 2 rows of zeros above and 3
    below at even sizes, where torch's ResNets have 3 and 3; a 3×3 one has none above and 1 below.

    Shape:
        input: ``[N, in_channels, H, W]``;
        output: ``[N, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]``.
    """

    def forward(self, x):
        # Paddle's operation computes it from the size that comes, in static programs too.
        return F.conv2d(x, self.weight, None, self._pairs[0], "SAME")


class ConvNorm(nn.Layer):
    """A convolution without bias and its batch normalisation.

    Args:
        in_channels, out_channels, kernel_size, stride: of the convolution; its kernel is odd.
        padding: ``torch`` pads half a kernel all round, ``same`` as ``SameConv2D`` says.

    Shape:
        input: ``[N, in_channels, H, W]``;
        output: ``[N, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: str
    ):
        super().__init__()
        # Where the stride is 1 both are one.
        kind = SameConv2D if padding == "same" and stride > 1 else Conv2D
        self.conv = kind(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias_attr=False
        )
        # 0.9 of the old statistics stay: torch's momentum of 0.1.
        self.norm = BatchNorm2D(out_channels, momentum=0.9, epsilon=1e-5)

    def forward(self, x):
        return self.norm(self.conv(x))
