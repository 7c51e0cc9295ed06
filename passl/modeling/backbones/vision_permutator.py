"""Vision Permutator (ViP).

Hou, Jiang, Yuan, Cheng, Yan, Feng: "Vision Permutator: A Permutable MLP-Like Architecture for
Visual Recognition", arXiv 2106.12368; the authors' code is github.com/houqb/VisionPermutator,
models/vip.py.

Legend for shapes: N images, H and W the height and width of the grid of tokens, C channels of a
token, which are cut into G segments of S channels.
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
    PatchEmbed,
    WeightedBranches,
    check_sizes,
    drop_path_rates,
    normal_,
    staged_depths,
    torch_default_,
    zeros_,
)
from passl.modeling.layers.functional import channels_first, channels_last, swap_axes
from passl.modeling.layers.patch_embed import Size
from passl.utils.errors import PasslError


class PermuteMlp(nn.Layer):
    """Linear maps along height, width and channels, weighted and projected.

    The map along the height takes one segment of a column's tokens, H·S numbers, to as many: G
    segments are as many as rows, so that H·S = C, and the map has the size of that of the
    channels. Along the width it is the same with a row's tokens.

    WeightedPermuteMLP in the authors' code.

    Args:
        channels: C.
        side: H and W.

    Shape:
        input and output: ``[N, H, W, C]``.
    """

    def __init__(self, channels: int, side: int):
        super().__init__()
        assert channels % side == 0
        self.segments = side
        self.height = Linear(channels, channels, bias_attr=False)
        self.width = Linear(channels, channels, bias_attr=False)
        self.channel = Linear(channels, channels, bias_attr=False)
        self.weighting = WeightedBranches(channels)
        self.proj = Linear(channels, channels)

    def forward(self, x):
        _, height, width, channels = x.shape
        segments = x.reshape([-1, height, width, self.segments, channels // self.segments])
        branches = []
        # The segments change places with the axis that is mixed: [N, G, W, H, S], [N, H, G, W, S].
        for mix, axis in ((self.height, 1), (self.width, 2)):
            moved = swap_axes(segments, axis, 3)
            mixed = mix(moved.flatten(3)).reshape([-1, *moved.shape[1:]])
            branches.append(swap_axes(mixed, axis, 3).flatten(3))
        return self.proj(self.weighting([*branches, self.channel(x)]))


class PermutatorBlock(nn.Layer):
    """Permute-MLP, then a channel MLP, each after a norm and with a residual.

    Shape:
        input and output: ``[N, H, W, C]``.
    """

    recompute = True  # as one piece, where activations are to be computed twice

    def __init__(self, channels: int, side: int, mlp_ratio: int, drop_path: DropPath):
        super().__init__()
        # Epsilon 1e-5, torch's default, as in the authors' code.
        self.norm1 = LayerNorm(channels, epsilon=1e-5)
        self.mixing = PermuteMlp(channels, side)
        self.norm2 = LayerNorm(channels, epsilon=1e-5)
        self.mlp = Mlp(channels, mlp_ratio * channels)
        self.drop_path = drop_path

    def forward(self, x):
        x = x + self.drop_path(self.mixing(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Transition(nn.Layer):
    """Other channels and, with a patch of 2, half the height and width.

    Shape:
        input: ``[N, H, W, C_i]``; output: ``[N, H / patch, W / patch, C_{i + 1}]``.
    """

    def __init__(self, in_channels: int, out_channels: int, patch: int):
        super().__init__()
        self.proj = Conv2D(in_channels, out_channels, kernel_size=patch, stride=patch)

    def forward(self, x):
        return channels_last(self.proj(channels_first(x)))


# Layer here -> layer in the authors' code (models/vip.py).
_NAMES = {
    "backbone.patch_embed.proj": "patch_embed.proj",
    "backbone.network.{i}.{j}.norm1": "network.{i}.{j}.norm1",
    "backbone.network.{i}.{j}.mixing.height": "network.{i}.{j}.attn.mlp_h",
    "backbone.network.{i}.{j}.mixing.width": "network.{i}.{j}.attn.mlp_w",
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


@BACKBONES.register
class VisionPermutator(nn.Layer):
    """The Vision Permutator without its classification layer.

    Args:
        img_size: height and width of the images in pixels, the same; a network serves one size.
            No parameter's shape depends on it, but what the maps along height and width have
            learned does: weights of one size mean nothing at another.
        patch_size: height and width of a patch.
        in_channels: channels of the images.
        embed_dims: C of each stage, a multiple of the tokens along a side there.
        depths: blocks of each stage.
        halved: for each stage but the last, whether height and width are halved after it.
        mlp_ratio: width of the channel MLPs, in units of C.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, C]`` with the last stage's C.

    Attributes:
        num_features: C of the last stage.
        stage_channels: C of each stage.
        stage_strides: pixels of the image that one step on a stage's map is.

    Raises:
        PasslError: sizes that do not fit together, or an image of another size.
    """

    released_names = {"authors": ("torch", _NAMES)}

    def __init__(
        self,
        img_size: Size = 224,
        patch_size: int = 7,
        in_channels: int = 3,
        embed_dims: Sequence[int] = (192, 384, 384, 384),
        depths: Sequence[int] = (4, 3, 8, 3),
        halved: Sequence[bool] = (True, False, False),
        mlp_ratio: int = 3,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        if not len(embed_dims) == len(depths) == len(halved) + 1:
            raise PasslError(
                "embed_dims and depths have a number for each stage, and halved one less, not "
                f"{len(embed_dims)}, {len(depths)} and {len(halved)}"
            )
        check_sizes(in_channels=in_channels, depths=depths, mlp_ratio=mlp_ratio)
        # Four, for the MLP that weights the branches is a quarter as wide.
        check_sizes(4, embed_dims=embed_dims)
        self.num_features = embed_dims[-1]
        self.patch_embed = PatchEmbed(img_size, patch_size, in_channels, embed_dims[0])
        if self.patch_embed.grid[0] != self.patch_embed.grid[1]:
            raise PasslError(
                f"img_size is one number, for as many tokens along the height as along the width, "
                f"not {img_size!r}"
            )
        rates = drop_path_rates(drop_path_rate, sum(depths))
        side = self.patch_embed.grid[0]
        self.stage_channels: List[int] = list(embed_dims)
        self.stage_strides: List[int] = []
        # Stages and what lies between them in turn, numbered as in the released files.
        self.network = nn.LayerList()
        for i, (channels, depth) in enumerate(zip(embed_dims, depths)):
            if i and halved[i - 1]:
                if side % 2:
                    raise PasslError(
                        f"{side}×{side} tokens cannot be halved before stage {i + 1}; choose an "
                        "img_size with an even number of patches there, or change halved"
                    )
                side //= 2
            if i and (halved[i - 1] or channels != embed_dims[i - 1]):
                patch = 2 if halved[i - 1] else 1
                self.network.append(Transition(embed_dims[i - 1], channels, patch))
            if channels % side:
                raise PasslError(
                    f"the {channels} channels of stage {i + 1} do not divide into as many segments "
                    f"as there are tokens along a side, {side}; "
                    "choose another img_size or embed_dims"
                )
            self.stage_strides.append(self.patch_embed.img_size[0] // side)
            first = sum(depths[:i])
            self.network.append(
                nn.LayerList(
                    [
                        PermutatorBlock(channels, side, mlp_ratio, DropPath(rate))
                        for rate in rates[first : first + depth]
                    ]
                )
            )
        self.norm = LayerNorm(self.num_features, epsilon=1e-5)
        self._initialize()

    def _initialize(self) -> None:
        # _init_weights of the authors' code: normal weights of standard deviation 0.02 and zero
        # biases; it leaves convolutions as torch has them.
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
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
        height, width = self.patch_embed.grid
        x = self.patch_embed(x)
        x = x.reshape([-1, height, width, x.shape[-1]])
        outputs = []
        for part in self.network:
            if isinstance(part, Transition):
                x = part(x)
            else:
                for block in part:
                    x = block(x)
                outputs.append(x)
        return outputs

    def forward_stages(self, x) -> List[paddle.Tensor]:
        """Returns the feature map of every stage, ``[N, C_i, H_i, W_i]``, for dense prediction.

        Stages between which nothing is halved have maps of the same size.
        """
        return [channels_first(stage) for stage in self._stages(x)]

    def forward_features(self, x):
        """Returns the normalised tokens before pooling, in raster order, ``[N, H·W, C]``."""
        return self.norm(self._stages(x)[-1]).flatten(1, 2)

    def forward(self, x):
        return self.forward_features(x).mean(axis=1)


# As in the authors' code, vip_s7, vip_m7 and vip_l7: name, C, blocks, where the grid is halved.
for _name, _dims, _depths, _halved in (
    ("vip_s7", (192, 384, 384, 384), (4, 3, 8, 3), (True, False, False)),
    ("vip_m7", (256, 256, 512, 512), (4, 3, 14, 3), (False, True, False)),
    ("vip_l7", (256, 512, 512, 512), (8, 8, 16, 4), (True, False, False)),
):
    BACKBONES.register_variant(
        _name, VisionPermutator, embed_dims=_dims, depths=_depths, halved=_halved
    )
