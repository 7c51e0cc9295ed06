"""Cutting an image into patches and projecting each to a vector."""

from __future__ import annotations

from typing import Sequence, Tuple, Union

from paddle import nn

from passl.modeling.layers import functional
from passl.modeling.layers.checks import check_image_size, check_input
from passl.utils.errors import PasslError

Size = Union[int, Sequence[int]]


def to_pair(size: Size, name: str) -> Tuple[int, int]:
    """Returns (height, width) of a size given as one number or as two."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise PasslError(f"{name} is one positive number or [height, width], not {size!r}")
    return pair


class PatchProjection(nn.Conv2D):
    """A convolution whose windows do not overlap, as a linear map of patches.

    Shape:
        input: ``[N, in_channels, H, W]``, sides that the stride divides;
        output: tokens ``[N, S, out_channels]`` in raster order.
    """

    def forward(self, x):
        if functional.runs_kernels(x, self.weight, self.bias):
            weight = self.weight.flatten(1).transpose([1, 0])
            tokens = functional.patches(x, *self.weight.shape[2:])
            return functional.linear(tokens, weight, self.bias)
        # Not super(): where this is translated to a static program, that is this class again.
        return nn.Conv2D.forward(self, x).flatten(2).transpose([0, 2, 1])


class PatchEmbed(nn.Layer):
    """Non-overlapping patches through one linear map, as a strided convolution.

    Args:
        img_size: height and width of the images, in pixels; one number for a square.
        patch_size: height and width of a patch; must divide ``img_size``.
        in_channels: channels of the images.
        embed_dim: size C of a token.
        bias: whether the map has one.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, S, C]`` with S patches in raster order.

    Raises:
        PasslError: at construction, sizes that do not divide; in ``forward``, what is no such
            tensor, or an image of another size than the network was built for.
    """

    def __init__(
        self,
        img_size: Size = 224,
        patch_size: Size = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        bias: bool = True,
    ):
        super().__init__()
        self.img_size = to_pair(img_size, "img_size")
        self.patch_size = to_pair(patch_size, "patch_size")
        if any(image % patch for image, patch in zip(self.img_size, self.patch_size)):
            raise PasslError(
                f"patch_size {self.patch_size} must divide img_size {self.img_size} "
                "without remainder"
            )
        self.grid = tuple(image // patch for image, patch in zip(self.img_size, self.patch_size))
        self.num_patches = self.grid[0] * self.grid[1]
        self.in_channels = in_channels
        self.proj = PatchProjection(
            in_channels,
            embed_dim,
            kernel_size=self.patch_size,
            stride=self.patch_size,
            bias_attr=None if bias else False,
        )

    def forward(self, x):
        check_input(x, self.in_channels)
        check_image_size(x, self.img_size)
        return self.proj(x)

    def other_tokens(self, tokens: int, family: str) -> PasslError:
        """Returns what to say of released weights for another number of tokens.

        Args:
            tokens: the number that they are for.
            family: the networks that have no scheme for it.
        """
        return PasslError(
            f"it is for {tokens} tokens (patches of an image), this network has "
            f"{self.grid[0]}×{self.grid[1]} = {self.num_patches}; {family}'s weights depend on the "
            "position: build it with the img_size and patch_size of the file"
        )
