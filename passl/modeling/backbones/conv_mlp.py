"""ConvMLP.

Li, Hassani, Walton, Shi: "ConvMLP: Hierarchical Convolutional MLPs for Vision", arXiv 2109.04454;
the authors' code is github.com/SHI-Labs/Convolutional-MLPs, src/convmlp.py and src/utils.

Legend for shapes: N images, H and W the height and width of a feature map, C its channels, with
an index for the stage.
"""

from __future__ import annotations

import math
from typing import Dict, FrozenSet, List, Sequence

import paddle
from paddle import nn

from passl.modeling.backbones.registry import BACKBONES
from passl.modeling.layers import (
    BatchNorm2D,
    Conv2D,
    DepthwiseConv2D,
    DropPath,
    LayerNorm,
    Mlp,
    check_input,
    check_sizes,
    drop_path_rates,
    normal_,
    torch_default_,
    zeros_,
)
from passl.modeling.layers.functional import (
    channels_first,
    channels_last,
    swap_axes,
)
from passl.utils.errors import PasslError


class ConvNormRelu(nn.Layer):
    """A convolution without bias, batch normalisation, ReLU.

    Shape:
        input: ``[N, in_channels, H, W]``;
        output: ``[N, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        super().__init__()
        self.conv = Conv2D(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias_attr=False,
        )
        # 0.9 of the old statistics stay: torch's momentum of 0.1.
        self.norm = BatchNorm2D(out_channels, momentum=0.9, epsilon=1e-5)

    def forward(self, x):
        return nn.functional.relu(self.norm(self.conv(x)))


class ConvBlock(nn.LayerList):
    """1×1, 3×3 and 1×1 convolutions of the first stage, to which the input is added.

    Activations are not computed twice here: the running statistics would be updated twice as well.

    Shape:
        input and output: ``[N, C, H, W]``.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__(
            [
                ConvNormRelu(channels, hidden, 1),
                ConvNormRelu(hidden, hidden, 3),
                ConvNormRelu(hidden, channels, 1),
            ]
        )

    def forward(self, x):
        branch = x
        for layer in self:
            branch = layer(branch)
        return x + branch


class ConvMlpBlock(nn.Layer):
    """A channel MLP, a depthwise 3×3 convolution, another channel MLP, each after a norm.

    The MLPs have a residual; the convolution, ``connect``, stands in the way itself. ConvMLPStage
    in the authors' code.

    Shape:
        input and output: ``[N, H, W, C]``.
    """

    recompute = True  # as one piece, where activations are to be computed twice

    def __init__(self, channels: int, mlp_ratio: int, drop_path: DropPath):
        super().__init__()
        # Epsilon 1e-5, torch's default, as in the authors' code.
        self.norm1 = LayerNorm(channels, epsilon=1e-5)
        self.mlp1 = Mlp(channels, mlp_ratio * channels)
        self.connect_norm = LayerNorm(channels, epsilon=1e-5)
        self.connect = DepthwiseConv2D(channels, 3)
        self.norm2 = LayerNorm(channels, epsilon=1e-5)
        self.mlp2 = Mlp(channels, mlp_ratio * channels)
        self.drop_path = drop_path

    def forward(self, x):
        x = x + self.drop_path(self.mlp1(self.norm1(x)))
        x = self.connect(self.connect_norm(x))
        return x + self.drop_path(self.mlp2(self.norm2(x)))


# Layer here -> layer in the authors' code. A ConvNormRelu is three modules of a Sequential there.
_NAMES = {
    **{
        f"backbone.{ours}.{k}.{layer}": f"{theirs}.{3 * k + offset}"
        for ours, theirs in (
            ("tokenizer", "tokenizer.block"),
            ("conv_blocks.{i}", "conv_stages.conv_blocks.{i}"),
        )
        for k in range(3)
        for offset, layer in enumerate(("conv", "norm"))
    },
    "backbone.conv_downsample": "conv_stages.downsample",
    "backbone.stages.{i}.{j}.norm1": "stages.{i}.blocks.{j}.norm1",
    "backbone.stages.{i}.{j}.mlp1.fc1": "stages.{i}.blocks.{j}.channel_mlp1.fc1",
    "backbone.stages.{i}.{j}.mlp1.fc2": "stages.{i}.blocks.{j}.channel_mlp1.fc2",
    "backbone.stages.{i}.{j}.connect_norm": "stages.{i}.blocks.{j}.connect_norm",
    "backbone.stages.{i}.{j}.connect": "stages.{i}.blocks.{j}.connect",
    "backbone.stages.{i}.{j}.norm2": "stages.{i}.blocks.{j}.norm2",
    "backbone.stages.{i}.{j}.mlp2.fc1": "stages.{i}.blocks.{j}.channel_mlp2.fc1",
    "backbone.stages.{i}.{j}.mlp2.fc2": "stages.{i}.blocks.{j}.channel_mlp2.fc2",
    "backbone.downsamples.{i}": "stages.{i}.downsample_mlp.downsample",
    "backbone.norm": "norm",
    "head.fc": "head",
}


@BACKBONES.register
class ConvMlp(nn.Layer):
    """ConvMLP without its classification layer.

    A stage of convolutions at a quarter of the image's size, then stages of MLPs at an 8th, a 16th
    and a 32nd. No parameter depends on the size, so that one network serves images of any size.

    Args:
        in_channels: channels of the images.
        stem_channels: C of the stage of convolutions.
        conv_depth: its blocks.
        embed_dims: C of each stage of MLPs; the first is also the width inside the convolutions.
        depths: blocks of each stage of MLPs.
        mlp_ratios: width of the channel MLPs of each, in units of C.
        drop_path_rate: stochastic depth of the last block of each stage of MLPs, rising linearly
            from 0 at the stage's first.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, C]`` with the last stage's C.

    Attributes:
        num_features: C of the last stage.
        stage_channels: C of each stage, that of convolutions first.
        stage_strides: pixels of the image that one step on a stage's map is.

    Raises:
        PasslError: lists that do not fit together, or sizes that cannot be.
    """

    released_names = {"authors": ("torch", _NAMES)}

    def __init__(
        self,
        in_channels: int = 3,
        stem_channels: int = 64,
        conv_depth: int = 2,
        embed_dims: Sequence[int] = (128, 256, 512),
        depths: Sequence[int] = (2, 4, 2),
        mlp_ratios: Sequence[int] = (2, 2, 2),
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        if not len(embed_dims) == len(depths) == len(mlp_ratios) >= 1:
            raise PasslError(
                "embed_dims, depths and mlp_ratios have a number for each stage, so as many as one "
                f"another, not {len(embed_dims)}, {len(depths)} and {len(mlp_ratios)}"
            )
        check_sizes(
            in_channels=in_channels,
            conv_depth=conv_depth,
            embed_dims=embed_dims,
            depths=depths,
            mlp_ratios=mlp_ratios,
        )
        check_sizes(2, stem_channels=stem_channels)  # the tokenizer begins with half of them
        self.in_channels = in_channels
        self.num_features = embed_dims[-1]
        self.stage_channels: List[int] = [stem_channels, *embed_dims]
        self.stage_strides: List[int] = [4 * 2**i for i in range(len(depths) + 1)]
        half = stem_channels // 2
        self.tokenizer = nn.Sequential(
            ConvNormRelu(in_channels, half, 3, stride=2),
            ConvNormRelu(half, half, 3),
            ConvNormRelu(half, stem_channels, 3),
            nn.MaxPool2D(3, stride=2, padding=1),
        )
        self.conv_blocks = nn.LayerList(
            [ConvBlock(stem_channels, embed_dims[0]) for _ in range(conv_depth)]
        )
        self.conv_downsample = Conv2D(stem_channels, embed_dims[0], 3, stride=2, padding=1)
        self.stages = nn.LayerList(
            [
                nn.LayerList(
                    [
                        ConvMlpBlock(channels, ratio, DropPath(rate))
                        for rate in drop_path_rates(drop_path_rate, depth)
                    ]
                )
                for channels, depth, ratio in zip(embed_dims, depths, mlp_ratios)
            ]
        )
        self.downsamples = nn.LayerList(
            [
                Conv2D(channels, following, 3, stride=2, padding=1)
                for channels, following in zip(embed_dims, embed_dims[1:])
            ]
        )
        self.norm = LayerNorm(self.num_features, epsilon=1e-5)
        self._initialize()

    def _initialize(self) -> None:
        # init_weight of the authors' code: He et al.'s normal initialisation by the fan out (of a
        # depthwise convolution that of all channels, as torch counts) for convolutions, whose
        # biases it leaves as torch has them; for linear maps a standard deviation of 0.02 and zero
        # biases.
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                normal_(layer.weight, std=0.02)
                zeros_(layer.bias)
            elif isinstance(layer, nn.Conv2D):
                torch_default_(layer)
                out, _, height, width = layer.weight.shape
                normal_(layer.weight, std=math.sqrt(2.0 / (out * height * width)))

    @property
    def parameter_depths(self) -> Dict[str, int]:
        """How deep each parameter lies, from 0, for layer-wise learning rates.

        The tokenizer is the first layer, each block one; what lies before a stage belongs to its
        first block, and the norm to the last block.
        """
        places = {"tokenizer.": 0}
        places.update({f"conv_blocks.{i}.": i + 1 for i in range(len(self.conv_blocks))})
        blocks = len(self.conv_blocks)
        for i, stage in enumerate(self.stages):
            places[f"downsamples.{i - 1}." if i else "conv_downsample."] = blocks + 1
            for j, _ in enumerate(stage):
                blocks += 1
                places[f"stages.{i}.{j}."] = blocks
        places["norm."] = blocks
        return {
            name: next(depth for place, depth in places.items() if name.startswith(place))
            for name, _ in self.named_parameters()
        }

    @property
    def no_weight_decay(self) -> FrozenSet[str]:
        """Parameters that never decay besides biases and norms: none."""
        return frozenset()

    def forward_stages(self, x) -> List[paddle.Tensor]:
        """Returns the feature map of every stage, ``[N, C_i, H_i, W_i]``, for dense prediction.

        They come as the stage leaves them. The authors' detectors read others: what enters a stage
        instead of what leaves it at an 8th and a 16th of the image's size.
        """
        check_input(x, self.in_channels)
        x = self.tokenizer(x)
        for block in self.conv_blocks:
            x = block(x)
        outputs = [x]
        for stage, downsample in zip(self.stages, [self.conv_downsample, *self.downsamples]):
            x = channels_last(downsample(x))
            for block in stage:
                x = block(x)
            x = channels_first(x)
            outputs.append(x)
        return outputs

    def forward_features(self, x):
        """Returns the normalised tokens of the last stage in raster order, ``[N, H·W, C]``."""
        return self.norm(swap_axes(self.forward_stages(x)[-1].flatten(2), 1, 2))

    def forward(self, x):
        return self.forward_features(x).mean(axis=1)


# As in the authors' code, convmlp_s, convmlp_m and convmlp_l: name, C and blocks of the stage of
# convolutions, C and blocks of the others, MLP ratio.
for _name, _stem, _conv_depth, _dims, _depths, _ratio in (
    ("convmlp_s", 64, 2, (128, 256, 512), (2, 4, 2), 2),
    ("convmlp_m", 64, 3, (128, 256, 512), (3, 6, 3), 3),
    ("convmlp_l", 96, 3, (192, 384, 768), (4, 8, 3), 3),
):
    BACKBONES.register_variant(
        _name,
        ConvMlp,
        stem_channels=_stem,
        conv_depth=_conv_depth,
        embed_dims=_dims,
        depths=_depths,
        mlp_ratios=(_ratio,) * 3,
    )
