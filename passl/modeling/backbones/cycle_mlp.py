"""CycleMLP.

Chen, Xie, Ge, Chen, Liang, Luo: "CycleMLP: A MLP-like Architecture for Dense Prediction", arXiv
2107.10224 (ICLR 2022); the authors' code is github.com/ShoufaChen/CycleMLP, cycle_mlp.py.

Legend for shapes: N images, H and W the height and width of a feature map, C its channels, with
an index for the stage.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, List, Sequence

import paddle
from paddle import nn

from passl.modeling.backbones.registry import BACKBONES
from passl.modeling.layers import (
    Conv2D,
    DropPath,
    LayerNorm,
    Linear,
    Mlp,
    WeightedBranches,
    check_input,
    check_sizes,
    drop_path_rates,
    functional,
    normal_,
    staged_depths,
    torch_default_,
    zeros_,
)
from passl.modeling.layers.functional import channels_first, channels_last
from passl.utils.errors import PasslError


class CycleFC(nn.Conv2D):
    """Cycle Fully-Connected Layer: a linear map whose channels look about.

    Channel c of the input is taken not at the position itself but ``(c + k // 2) mod k - k // 2``
    further along one axis: 0, 1, -1, 0, 1, -1, … for k = 3. Beyond the border there are zeros. The
    authors compute it as a deformable convolution with fixed offsets of whole pixels; moving the
    channels and then mapping them is the same, and needs no such operation.

    It is a Conv2D for its weight's shape, which is that of the released files, and because it
    costs as much as a 1×1 convolution.

    Args:
        channels: C, of the input and of the output.
        axis: 1 looks along the height, 2 along the width.
        stepsize: k, how many neighbouring positions the channels cycle through; odd. 1 is a plain
            linear map.

    Shape:
        input and output: ``[N, H, W, C]``; weight: ``[C, C, 1, 1]``.
    """

    def __init__(self, channels: int, axis: int, stepsize: int = 3):
        super().__init__(channels, channels, kernel_size=1)
        assert axis in (1, 2) and stepsize % 2 == 1
        self.axis, self.stepsize = axis, stepsize

    def shifted(self, x):
        """Returns the input with each channel moved, the channels in groups of one offset."""
        half = self.stepsize // 2
        if not half:
            return x
        edge = paddle.zeros_like(x[:, :1] if self.axis == 1 else x[:, :, :1])
        x = paddle.concat([edge] * half + [x] + [edge] * half, axis=self.axis)
        groups = []
        for first in range(min(self.stepsize, x.shape[-1])):
            offset = (first + half) % self.stepsize - half
            begin = half + offset
            window = slice(begin, (begin - 2 * half) or None)
            rows, columns = (window, slice(None)) if self.axis == 1 else (slice(None), window)
            groups.append(x[:, rows, columns, first :: self.stepsize])
        return paddle.concat(groups, axis=-1)

    def forward(self, x):
        if functional.runs_kernels(x, self.weight, self.bias):
            half = self.stepsize // 2
            offsets = [(c + half) % self.stepsize - half for c in range(x.shape[-1])]
            moved = functional.shift_channels(x, offsets, self.axis)
            return functional.linear(moved, self.weight.flatten(1).transpose([1, 0]), self.bias)
        # The weight's input channels in the order of the groups: those of one offset together.
        weight, count = self.weight.flatten(1), min(self.stepsize, x.shape[-1])
        weight = paddle.concat([weight[:, i :: self.stepsize] for i in range(count)], 1)
        return paddle.matmul(self.shifted(x), weight, transpose_y=True) + self.bias


class CycleMixing(nn.Layer):
    """Spatial mixing: Cycle FCs along width and height and a linear map, weighted and projected.

    The three branches, their weighting (Vision Permutator's) and the projection are those of the
    class CycleMLP in the authors' code.

    Shape:
        input and output: ``[N, H, W, C]``.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.width = CycleFC(channels, axis=2)
        self.height = CycleFC(channels, axis=1)
        self.channel = Linear(channels, channels, bias_attr=False)
        self.weighting = WeightedBranches(channels)
        self.proj = Linear(channels, channels)

    def forward(self, x):
        return self.proj(self.weighting([self.width(x), self.height(x), self.channel(x)]))


class CycleBlock(nn.Layer):
    """Spatial mixing, then a channel MLP, each after a norm and with a residual.

    Shape:
        input and output: ``[N, H, W, C]``.
    """

    recompute = True  # as one piece, where activations are to be computed twice

    def __init__(self, channels: int, mlp_ratio: int, drop_path: DropPath):
        super().__init__()
        # Epsilon 1e-5, torch's default, as in the authors' code.
        self.norm1 = LayerNorm(channels, epsilon=1e-5)
        self.mixing = CycleMixing(channels)
        self.norm2 = LayerNorm(channels, epsilon=1e-5)
        self.mlp = Mlp(channels, mlp_ratio * channels)
        self.drop_path = drop_path

    def forward(self, x):
        x = x + self.drop_path(self.mixing(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Downsample(nn.Layer):
    """Half the height and width, other channels, by a convolution of overlapping 3×3 windows.

    Shape:
        input: ``[N, H, W, C_i]``; output: ``[N, ⌈H / 2⌉, ⌈W / 2⌉, C_{i + 1}]``.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.proj = Conv2D(in_channels, out_channels, kernel_size=3, stride=2, padding=1)

    def forward(self, x):
        return channels_last(self.proj(channels_first(x)))


# Layer here -> layer in the authors' code (cycle_mlp.py). "sfc_h" there moves along the width.
_NAMES = {
    "backbone.patch_embed": "patch_embed.proj",
    "backbone.network.{i}.{j}.norm1": "network.{i}.{j}.norm1",
    "backbone.network.{i}.{j}.mixing.width": "network.{i}.{j}.attn.sfc_h",
    "backbone.network.{i}.{j}.mixing.height": "network.{i}.{j}.attn.sfc_w",
    "backbone.network.{i}.{j}.mixing.channel": "network.{i}.{j}.attn.mlp_c",
    "backbone.network.{i}.{j}.mixing.weighting.mlp.fc1": "network.{i}.{j}.attn.reweight.fc1",
    "backbone.network.{i}.{j}.mixing.weighting.mlp.fc2": "network.{i}.{j}.attn.reweight.fc2",
    "backbone.network.{i}.{j}.mixing.proj": "network.{i}.{j}.attn.proj",
    "backbone.network.{i}.{j}.norm2": "network.{i}.{j}.norm2",
    "backbone.network.{i}.{j}.mlp.fc1": "network.{i}.{j}.mlp.fc1",
    "backbone.network.{i}.{j}.mlp.fc2": "network.{i}.{j}.mlp.fc2",
    "backbone.network.{i}.proj": "network.{i}.proj",
    "backbone.norm": "norm",
    "head.fc": "head",
}
# Their files also hold the offsets of the shifts, which follow from the layer's arguments.
_OFFSETS = ("network.{i}.{j}.attn.sfc_h.offset", "network.{i}.{j}.attn.sfc_w.offset")


@BACKBONES.register
class CycleMlp(nn.Layer):
    """CycleMLP without its classification layer.

    Four stages, at a 4th, 8th, 16th and 32nd of the image's size. No parameter depends on the
    size, so that one network serves images of any size.

    Args:
        in_channels: channels of the images.
        embed_dims: C of each stage.
        depths: blocks of each stage.
        mlp_ratios: width of the channel MLPs of each stage, in units of C.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, C_4]``.

    Attributes:
        num_features: C of the last stage.
        stage_channels: C of each stage.
        stage_strides: pixels of the image that one step on a stage's map is.

    Raises:
        PasslError: lists that do not fit together, sizes that cannot be, or an image with fewer
            than 3 pixels along a side.
    """

    released_names = {"authors": ("torch", _NAMES, {"no_weights": _OFFSETS})}

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (2, 2, 4, 2),
        mlp_ratios: Sequence[int] = (4, 4, 4, 4),
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        if not len(embed_dims) == len(depths) == len(mlp_ratios) >= 1:
            raise PasslError(
                "embed_dims, depths and mlp_ratios have a number for each stage, so as many as one "
                f"another, not {len(embed_dims)}, {len(depths)} and {len(mlp_ratios)}"
            )
        check_sizes(in_channels=in_channels, depths=depths, mlp_ratios=mlp_ratios)
        # Four, for the MLP that weights the branches is a quarter as wide.
        check_sizes(4, embed_dims=embed_dims)
        self.in_channels = in_channels
        self.num_features = embed_dims[-1]
        self.stage_channels: List[int] = list(embed_dims)
        self.stage_strides: List[int] = [4 * 2**i for i in range(len(depths))]
        # Overlapping patches of 7 pixels, 4 apart: PatchEmbedOverlapping there.
        self.patch_embed = nn.Conv2D(in_channels, embed_dims[0], 7, stride=4, padding=2)
        rates = drop_path_rates(drop_path_rate, sum(depths))
        # Stages and what lies between them in turn, numbered as in the released files.
        self.network = nn.LayerList()
        for i, depth in enumerate(depths):
            if i:
                self.network.append(Downsample(embed_dims[i - 1], embed_dims[i]))
            first = sum(depths[:i])
            self.network.append(
                nn.LayerList(
                    [
                        CycleBlock(embed_dims[i], mlp_ratios[i], DropPath(rate))
                        for rate in rates[first : first + depth]
                    ]
                )
            )
        self.norm = LayerNorm(self.num_features, epsilon=1e-5)
        self._initialize()

    def _initialize(self) -> None:
        # cls_init_weights of the authors' code: normal weights of standard deviation 0.02 and zero
        # biases; it leaves plain convolutions as torch has them.
        for layer in self.sublayers():
            if isinstance(layer, (nn.Linear, CycleFC)):
                normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    zeros_(layer.bias)
            elif isinstance(layer, nn.Conv2D):
                torch_default_(layer)

    @property
    def parameter_depths(self) -> Dict[str, int]:
        """How deep each parameter lies, from 0, for layer-wise learning rates.

        The patch embedding is the first layer, each block one; what lies before a stage belongs
        to its first block, and the norm to the last block.
        """
        return staged_depths(self, "patch_embed.")

    @property
    def no_weight_decay(self) -> FrozenSet[str]:
        """Parameters that never decay besides biases and norms: none."""
        return frozenset()

    def _stages(self, x) -> List[paddle.Tensor]:
        """Returns what each stage gives, ``[N, H_i, W_i, C_i]``."""
        check_input(x, self.in_channels)
        if min(x.shape[2:]) in (1, 2):  # -1 is a size that is not known yet
            raise PasslError(
                f"an image of {x.shape[2]}×{x.shape[3]} is smaller than a patch; CycleMLP takes "
                "images of 3 pixels and more along each side, so enlarge the transforms' size"
            )
        x = channels_last(self.patch_embed(x))
        outputs = []
        for part in self.network:
            if isinstance(part, Downsample):
                outputs.append(x)
                x = part(x)
            else:
                for block in part:
                    x = block(x)
        return [*outputs, x]

    def forward_stages(self, x) -> List[paddle.Tensor]:
        """Returns the feature map of every stage, ``[N, C_i, H_i, W_i]``, for dense prediction.

        They come as the stage leaves them; the authors' detectors add a LayerNorm of their own to
        each.
        """
        return [channels_first(stage) for stage in self._stages(x)]

    def forward_features(self, x):
        """Returns the normalised tokens of the last stage in raster order, ``[N, H·W, C]``."""
        return self.norm(self._stages(x)[-1]).flatten(1, 2)

    def forward(self, x):
        return self.forward_features(x).mean(axis=1)


# As in the authors' code, CycleMLP_B1 to CycleMLP_B5: name, C, blocks, and MLP ratios by stage.
for _name, _dims, _depths, _ratios in (
    ("cyclemlp_b1", (64, 128, 320, 512), (2, 2, 4, 2), (4, 4, 4, 4)),
    ("cyclemlp_b2", (64, 128, 320, 512), (2, 3, 10, 3), (4, 4, 4, 4)),
    ("cyclemlp_b3", (64, 128, 320, 512), (3, 4, 18, 3), (8, 8, 4, 4)),
    ("cyclemlp_b4", (64, 128, 320, 512), (3, 8, 27, 3), (8, 8, 4, 4)),
    ("cyclemlp_b5", (96, 192, 384, 768), (3, 4, 24, 3), (4, 4, 4, 4)),
):
    BACKBONES.register_variant(
        _name, CycleMlp, embed_dims=_dims, depths=_depths, mlp_ratios=_ratios
    )
