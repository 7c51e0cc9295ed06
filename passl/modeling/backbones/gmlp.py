"""gMLP.

Liu, Dai, So, Le: "Pay Attention to MLPs", arXiv 2105.08050. The authors released neither code nor
weights; what the paper leaves open (how the networks start, the epsilon of the norms, whether a
block's stochastic depth depends on its place) is as in timm, timm/models/mlp_mixer.py.

Legend for shapes: N images, S tokens (patches), C channels of a token (d_model), F the width of the
channel MLP (d_ffn).
"""

from __future__ import annotations

import math
from typing import Dict, FrozenSet, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

from passl.modeling.backbones.registry import BACKBONES
from passl.modeling.layers import (
    GELU,
    DropPath,
    LayerNorm,
    Linear,
    PatchEmbed,
    check_drop_rate,
    check_sizes,
    column_depths,
    drop_path_rates,
    lecun_normal_,
    normal_,
    ones_,
    stage_ends,
    stage_maps,
    uniform_,
    zeros_,
)
from passl.modeling.layers.functional import halves, swap_axes
from passl.modeling.layers.patch_embed import Size
from passl.utils.errors import PasslError


class SpatialGatingUnit(nn.Layer):
    """Half of the channels, multiplied by a linear map across tokens of the rest (section 2.1).

    The map starts near 0 and its bias at 1, so that at first the half passes as it is.

    Shape:
        input: ``[N, S, F]``; output: ``[N, S, F / 2]``.
    """

    def __init__(self, num_tokens: int, channels_mlp_dim: int):
        super().__init__()
        self.norm = LayerNorm(channels_mlp_dim // 2, epsilon=1e-5)  # not 1e-6 as the other norms
        self.proj = Linear(num_tokens, num_tokens)

    def forward(self, x):
        u, v = halves(x)
        # [N, S, F/2] -> [N, F/2, S]: the linear map works on columns, shared across channels.
        gate = swap_axes(self.proj(swap_axes(self.norm(v), 1, 2)), 1, 2)
        return u * gate


class GatedMlp(nn.Layer):
    """Linear, GELU, gate across tokens, linear.

    Shape:
        input and output: ``[N, S, C]``.
    """

    def __init__(self, num_tokens: int, embed_dim: int, channels_mlp_dim: int, dropout: float):
        super().__init__()
        self.fc1 = Linear(embed_dim, channels_mlp_dim)
        self.act = GELU()
        self.gate = SpatialGatingUnit(num_tokens, channels_mlp_dim)
        self.fc2 = Linear(channels_mlp_dim // 2, embed_dim)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x):
        return self.drop(self.fc2(self.gate(self.drop(self.act(self.fc1(x))))))


class GmlpBlock(nn.Layer):
    """One gMLP layer (figure 1): norm and gated MLP, with a residual around both.

    Shape:
        input and output: ``[N, S, C]``.
    """

    recompute = True  # as one piece, where activations are to be computed twice

    def __init__(
        self,
        num_tokens: int,
        embed_dim: int,
        channels_mlp_dim: int,
        dropout: float,
        drop_path: DropPath,
    ):
        super().__init__()
        self.norm = LayerNorm(embed_dim, epsilon=1e-6)
        self.mlp_channels = GatedMlp(num_tokens, embed_dim, channels_mlp_dim, dropout)
        self.drop_path = drop_path

    def forward(self, x):
        return x + self.drop_path(self.mlp_channels(self.norm(x)))


_LAYERS = (
    "backbone.stem.proj",
    "backbone.blocks.{i}.norm",
    "backbone.blocks.{i}.mlp_channels.fc1",
    "backbone.blocks.{i}.mlp_channels.gate.norm",
    "backbone.blocks.{i}.mlp_channels.gate.proj",
    "backbone.blocks.{i}.mlp_channels.fc2",
    "backbone.norm",
    "head.fc",
)


@BACKBONES.register
class Gmlp(nn.Layer):
    """gMLP without its classification layer.

    Args:
        img_size: height and width of the images in pixels; one number for a square. The size of
            the gates' linear maps depends on it, so a network serves one image size.
        patch_size: height and width of a patch.
        in_channels: channels of the images.
        embed_dim: C, the size of a token.
        num_blocks: number of gMLP layers.
        channels_mlp_dim: F, which the gates halve: an even number.
        drop_rate: dropout after every linear map across channels.
        drop_path_rate: stochastic depth; the paper gives 1 minus it, the survival probability.
        drop_path_mode: ``constant``, the same at every block, or ``linear`` from 0 at the first.
        stage_blocks: after which blocks ``forward_stages`` takes its maps, counted from 1; by
            default after a quarter, half, three quarters and all of them.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, C]``.

    Attributes:
        num_features: C.
        stage_channels: C for each map.
        stage_strides: the patch's height for each map.

    Raises:
        PasslError: sizes that do not fit together, or an image of another size.
    """

    def __init__(
        self,
        img_size: Size = 224,
        patch_size: Size = 16,
        in_channels: int = 3,
        embed_dim: int = 256,
        num_blocks: int = 30,
        channels_mlp_dim: int = 1536,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        drop_path_mode: str = "constant",
        stage_blocks: Optional[Sequence[int]] = None,
    ):
        super().__init__()
        check_sizes(
            in_channels=in_channels,
            embed_dim=embed_dim,
            num_blocks=num_blocks,
            channels_mlp_dim=channels_mlp_dim,
        )
        check_drop_rate(drop_rate)
        if channels_mlp_dim % 2:
            raise PasslError(
                f"channels_mlp_dim must be even, because the gates halve it, not {channels_mlp_dim}"
            )
        self.num_features = embed_dim
        self.stem = PatchEmbed(img_size, patch_size, in_channels, embed_dim)
        self.blocks = nn.LayerList(
            [
                GmlpBlock(
                    self.stem.num_patches, embed_dim, channels_mlp_dim, drop_rate, DropPath(rate)
                )
                for rate in drop_path_rates(drop_path_rate, num_blocks, drop_path_mode)
            ]
        )
        self.norm = LayerNorm(embed_dim, epsilon=1e-6)
        self._ends = stage_ends(stage_blocks, num_blocks)
        self.stage_channels: List[int] = [embed_dim] * len(self._ends)
        self.stage_strides: List[int] = [self.stem.patch_size[0]] * len(self._ends)
        self._initialize()

    def _initialize(self) -> None:
        # timm's: Xavier (Glorot and Bengio, 2010) for the linear maps, LeCun for the patches.
        proj = self.stem.proj
        lecun_normal_(proj.weight, fan_in=proj.weight.size // proj.weight.shape[0])
        zeros_(proj.bias)
        for block in self.blocks:
            mlp = block.mlp_channels
            for linear in (mlp.fc1, mlp.fc2):
                uniform_(linear.weight, math.sqrt(6 / sum(linear.weight.shape)))
                normal_(linear.bias, std=1e-6)
            # The paper, section 2.1: near zero, and ones.
            normal_(mlp.gate.proj.weight, std=1e-6)
            ones_(mlp.gate.proj.bias)

    # timm/models/mlp_mixer.py; without "backbone." the names are the same
    released_names = {
        "timm": (
            "torch",
            dict(zip(_LAYERS, (*(n.replace("backbone.", "") for n in _LAYERS[:-1]), "head"))),
        )
    }

    def adapt_weight(self, name: str, shape: Sequence[int], publisher: str) -> None:
        """Says why a released weight of another shape, for other images, cannot be used.

        Raises:
            PasslError: it is for another number of tokens.
        """
        if ".gate.proj." in name and shape:
            raise self.stem.other_tokens(shape[-1], "gMLP")

    @property
    def parameter_depths(self) -> Dict[str, int]:
        """How deep each parameter lies, see ``column_depths``."""
        return column_depths(self)

    def pictured_weights(self) -> Dict[str, Tuple[str, np.ndarray]]:
        """Returns what the paper shows of its networks: name -> (kind, weights).

        ``stem``: the patch embedding, ``[C, in_channels, patch, patch]``; ``token_mixing``: for
        each block, what the gate of every patch takes of each patch of the grid, ``[S, H, W]``.
        """
        pictured = {"stem": ("stem", self.stem.proj.weight.numpy())}
        for i, block in enumerate(self.blocks):
            weight = block.mlp_channels.gate.proj.weight.numpy()  # [from, to]
            pictured[f"token_mixing_{i:02d}"] = (
                "token_mixing",
                weight.T.reshape(-1, *self.stem.grid),
            )
        return pictured

    @property
    def no_weight_decay(self) -> FrozenSet[str]:
        """Parameters that never decay besides biases and norms: none."""
        return frozenset()

    def forward_features(self, x):
        """Returns the normalised tokens before pooling, ``[N, S, C]``."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward_stages(self, x) -> List[paddle.Tensor]:
        """Returns maps of the patches after some of the blocks, ``[N, C, H_p, W_p]`` each."""
        return stage_maps(self.blocks, self.stem(x), self._ends, self.stem.grid)

    def forward(self, x):
        return self.forward_features(x).mean(axis=1)


# The paper's three networks: name, C, F. All have 30 blocks and patches of 16.
for _name, _c, _f in (
    ("gmlp_ti16_224", 128, 768),
    ("gmlp_s16_224", 256, 1536),
    ("gmlp_b16_224", 512, 3072),
):
    BACKBONES.register_variant(
        _name, Gmlp, img_size=224, patch_size=16, num_blocks=30, embed_dim=_c, channels_mlp_dim=_f
    )
