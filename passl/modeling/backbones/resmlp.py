"""ResMLP.

Touvron, Bojanowski, Caron, Cord, El-Nouby, Grave, Izacard, Joulin, Synnaeve, Verbeek, Jégou:
"ResMLP: Feedforward networks for image classification with data-efficient training",
arXiv 2105.03404. The authors' code: facebookresearch/deit, resmlp_models.py.

Legend for shapes: N images, S tokens (patches), C channels of a token, D_C the hidden width of
the channel MLP.
"""

from __future__ import annotations

import math
from typing import Dict, FrozenSet, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

from passl.modeling.backbones.registry import BACKBONES
from passl.modeling.layers import (
    DropPath,
    Linear,
    Mlp,
    PatchEmbed,
    check_drop_rate,
    check_sizes,
    column_depths,
    drop_path_rates,
    normal_,
    stage_ends,
    stage_maps,
    torch_default_,
    zeros_,
)
from passl.modeling.layers.functional import scale, swap_axes
from passl.modeling.layers.patch_embed import Size
from passl.utils.errors import PasslError


class Affine(nn.Layer):
    """A scale and a shift for each channel, in the place of a norm: no statistics of the data.

    Shape:
        input and output: ``[N, S, C]``.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        one, zero = nn.initializer.Constant(1.0), nn.initializer.Constant(0.0)
        self.alpha = self.create_parameter([embed_dim], default_initializer=one)
        self.beta = self.create_parameter([embed_dim], default_initializer=zero)

    def forward(self, x):
        return scale(x, self.alpha, self.beta)


class ResMlpBlock(nn.Layer):
    """One ResMLP layer: one linear map across tokens, then an MLP across channels.

    Each has a residual around it, an ``Affine`` before it and a scale of the channels after it
    (LayerScale: Touvron et al., arXiv 2103.17239), which starts small.

    Shape:
        input and output: ``[N, S, C]``.
    """

    recompute = True  # as one piece, where activations are to be computed twice

    def __init__(
        self,
        num_tokens: int,
        embed_dim: int,
        channels_mlp_dim: int,
        layer_scale: float,
        dropout: float,
        drop_path: DropPath,
    ):
        super().__init__()
        start = nn.initializer.Constant(layer_scale)
        self.norm1 = Affine(embed_dim)
        self.linear_tokens = Linear(num_tokens, num_tokens)
        self.ls1 = self.create_parameter([embed_dim], default_initializer=start)
        self.norm2 = Affine(embed_dim)
        self.mlp_channels = Mlp(embed_dim, channels_mlp_dim, dropout=dropout)
        self.ls2 = self.create_parameter([embed_dim], default_initializer=start)
        self.drop_path = drop_path

    def forward(self, x):
        # [N, S, C] -> [N, C, S]: the linear map works on columns, shared across channels.
        tokens = swap_axes(self.norm1(x), 1, 2)
        x = x + self.drop_path(scale(swap_axes(self.linear_tokens(tokens), 1, 2), self.ls1))
        return x + self.drop_path(scale(self.mlp_channels(self.norm2(x)), self.ls2))


# In brackets: single parameters and their axes, see passl/weights/naming.py.
_LAYERS = (
    "backbone.stem.proj",
    "backbone.blocks.{i}.norm1.alpha[:]",
    "backbone.blocks.{i}.norm1.beta[:]",
    "backbone.blocks.{i}.linear_tokens",
    "backbone.blocks.{i}.ls1[:]",
    "backbone.blocks.{i}.norm2.alpha[:]",
    "backbone.blocks.{i}.norm2.beta[:]",
    "backbone.blocks.{i}.mlp_channels.fc1",
    "backbone.blocks.{i}.mlp_channels.fc2",
    "backbone.blocks.{i}.ls2[:]",
    "backbone.norm.alpha[:]",
    "backbone.norm.beta[:]",
    "head.fc",
)

# What released files call these layers: publisher -> (how it stores them, names in the order
# above).
_RELEASED_NAMES: Dict[str, Tuple[str, Tuple[str, ...]]] = {
    "facebook": (  # facebookresearch/deit, resmlp_models.py
        "torch",
        (
            "patch_embed.proj",
            "blocks.{i}.norm1.alpha[:]",
            "blocks.{i}.norm1.beta[:]",
            "blocks.{i}.attn",
            "blocks.{i}.gamma_1[:]",
            "blocks.{i}.norm2.alpha[:]",
            "blocks.{i}.norm2.beta[:]",
            "blocks.{i}.mlp.fc1",
            "blocks.{i}.mlp.fc2",
            "blocks.{i}.gamma_2[:]",
            "norm.alpha[:]",
            "norm.beta[:]",
            "head",
        ),
    ),
    "timm": (  # timm/models/mlp_mixer.py
        "torch",
        (
            "stem.proj",
            "blocks.{i}.norm1.alpha[1, 1, :]",
            "blocks.{i}.norm1.beta[1, 1, :]",
            "blocks.{i}.linear_tokens",
            "blocks.{i}.ls1[:]",
            "blocks.{i}.norm2.alpha[1, 1, :]",
            "blocks.{i}.norm2.beta[1, 1, :]",
            "blocks.{i}.mlp_channels.fc1",
            "blocks.{i}.mlp_channels.fc2",
            "blocks.{i}.ls2[:]",
            "norm.alpha[1, 1, :]",
            "norm.beta[1, 1, :]",
            "head",
        ),
    ),
}


@BACKBONES.register
class ResMlp(nn.Layer):
    """ResMLP without its classification layer.

    Args:
        img_size: height and width of the images in pixels; one number for a square. The size of
            the linear maps across tokens depends on it, so a network serves one image size.
        patch_size: height and width of a patch.
        in_channels: channels of the images.
        embed_dim: C, the size of a token.
        num_blocks: number of ResMLP layers.
        channels_mlp_dim: D_C, four times C in all of the paper's networks.
        layer_scale: what the scales of the branches start at; the deeper a network, the smaller.
        drop_rate: dropout after every linear map of the channel MLPs.
        drop_path_rate: stochastic depth.
        drop_path_mode: ``constant``, the same at every block (the authors' code), or ``linear``
            from 0 at the first block.
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
        embed_dim: int = 384,
        num_blocks: int = 12,
        channels_mlp_dim: int = 1536,
        layer_scale: float = 0.1,
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
        if not 0.0 < layer_scale < math.inf:
            # At 0 neither a branch nor its scale would ever learn.
            raise PasslError(f"layer_scale is above 0, not {layer_scale}")
        self.num_features = embed_dim
        self.stem = PatchEmbed(img_size, patch_size, in_channels, embed_dim)
        self.blocks = nn.LayerList(
            [
                ResMlpBlock(
                    self.stem.num_patches,
                    embed_dim,
                    channels_mlp_dim,
                    layer_scale,
                    drop_rate,
                    DropPath(rate),
                )
                for rate in drop_path_rates(drop_path_rate, num_blocks, drop_path_mode)
            ]
        )
        self.norm = Affine(embed_dim)
        self._ends = stage_ends(stage_blocks, num_blocks)
        self.stage_channels: List[int] = [embed_dim] * len(self._ends)
        self.stage_strides: List[int] = [self.stem.patch_size[0]] * len(self._ends)
        self._initialize()

    def _initialize(self) -> None:
        # The authors' code: a normal of 0.02 for linear maps (truncated, but only at ±2); of the
        # convolution it says nothing.
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                normal_(layer.weight, std=0.02)
                zeros_(layer.bias)
        torch_default_(self.stem.proj)

    released_names = {
        publisher: (convention, dict(zip(_LAYERS, names)))
        for publisher, (convention, names) in _RELEASED_NAMES.items()
    }

    def adapt_weight(self, name: str, shape: Sequence[int], publisher: str) -> None:
        """Says why a released weight of another shape, for other images, cannot be used.

        Raises:
            PasslError: it is for another number of tokens.
        """
        if ".linear_tokens." in name and shape:
            raise self.stem.other_tokens(shape[-1], "ResMLP")

    @property
    def parameter_depths(self) -> Dict[str, int]:
        """How deep each parameter lies, see ``column_depths``."""
        return column_depths(self)

    def pictured_weights(self) -> Dict[str, Tuple[str, np.ndarray]]:
        """Returns what is worth looking at: name -> (kind, weights).

        ``stem``: the patch embedding, ``[C, in_channels, patch, patch]``; ``token_mixing``: for
        each block, what every patch takes of each patch of the grid, ``[S, H, W]``.
        """
        pictured = {"stem": ("stem", self.stem.proj.weight.numpy())}
        for i, block in enumerate(self.blocks):
            weight = block.linear_tokens.weight.numpy()  # [from, to]
            pictured[f"token_mixing_{i:02d}"] = (
                "token_mixing",
                weight.T.reshape(-1, *self.stem.grid),
            )
        return pictured

    @property
    def no_weight_decay(self) -> FrozenSet[str]:
        """Parameters that never decay besides those of one axis, as all scales here are: none."""
        return frozenset()

    def forward_features(self, x):
        """Returns the tokens after the last ``Affine``, before pooling, ``[N, S, C]``."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward_stages(self, x) -> List[paddle.Tensor]:
        """Returns maps of the patches after some of the blocks, ``[N, C, H_p, W_p]`` each."""
        return stage_maps(self.blocks, self.stem(x), self._ends, self.stem.grid)

    def forward(self, x):
        return self.forward_features(x).mean(axis=1)


# The authors' resmlp_models.py: name, patch, blocks, C, what the layer scales start at. (timm has
# 1e-4 for the shallowest; it makes no difference to released weights.)
for _name, _patch, _blocks, _c, _layer_scale in (
    ("resmlp_12_224", 16, 12, 384, 0.1),
    ("resmlp_24_224", 16, 24, 384, 1e-5),
    ("resmlp_36_224", 16, 36, 384, 1e-6),
    ("resmlp_big_24_224", 8, 24, 768, 1e-6),
):
    BACKBONES.register_variant(
        _name,
        ResMlp,
        img_size=224,
        patch_size=_patch,
        num_blocks=_blocks,
        embed_dim=_c,
        channels_mlp_dim=4 * _c,
        layer_scale=_layer_scale,
    )
