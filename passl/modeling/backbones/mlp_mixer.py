"""MLP-Mixer.

Tolstikhin, Houlsby, Kolesnikov, Beyer, Zhai, Unterthiner, Yung, Steiner, Keysers, Uszkoreit,
Lucic, Dosovitskiy: "MLP-Mixer: An all-MLP Architecture for Vision", arXiv 2105.01601.

Legend for shapes: N images, S tokens (patches), C channels of a token, D_S and D_C the hidden
widths of the token-mixing and channel-mixing MLPs.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, FrozenSet, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

from passl.modeling.backbones.registry import BACKBONES
from passl.modeling.layers import (
    DropPath,
    LayerNorm,
    Mlp,
    PatchEmbed,
    check_drop_rate,
    check_sizes,
    column_depths,
    drop_path_rates,
    lecun_normal_,
    stage_ends,
    stage_maps,
    zeros_,
)
from passl.modeling.layers.functional import swap_axes
from passl.modeling.layers.patch_embed import Size
from passl.utils.errors import PasslError


class MixerBlock(nn.Layer):
    """One Mixer layer (equation 1): tokens are mixed, then channels, each with a residual.

    Shape:
        input and output: ``[N, S, C]``.
    """

    recompute = True  # as one piece, where activations are to be computed twice

    def __init__(
        self,
        num_tokens: int,
        embed_dim: int,
        tokens_mlp_dim: int,
        channels_mlp_dim: int,
        gelu_approximate: bool,
        dropout: float,
        drop_path: DropPath,
    ):
        super().__init__()
        self.norm1 = LayerNorm(embed_dim, epsilon=1e-6)
        self.mlp_tokens = Mlp(num_tokens, tokens_mlp_dim, gelu_approximate, dropout)
        self.norm2 = LayerNorm(embed_dim, epsilon=1e-6)
        self.mlp_channels = Mlp(embed_dim, channels_mlp_dim, gelu_approximate, dropout)
        self.drop_path = drop_path

    def forward(self, x):
        # [N, S, C] -> [N, C, S]: the token MLP works on columns, shared across channels.
        tokens = swap_axes(self.norm1(x), 1, 2)
        x = x + self.drop_path(swap_axes(self.mlp_tokens(tokens), 1, 2))
        return x + self.drop_path(self.mlp_channels(self.norm2(x)))


_LAYERS = (
    "backbone.stem.proj",
    "backbone.blocks.{i}.norm1",
    "backbone.blocks.{i}.mlp_tokens.fc1",
    "backbone.blocks.{i}.mlp_tokens.fc2",
    "backbone.blocks.{i}.norm2",
    "backbone.blocks.{i}.mlp_channels.fc1",
    "backbone.blocks.{i}.mlp_channels.fc2",
    "backbone.norm",
    "head.fc",
)

# What released files call these layers: publisher -> (how it stores them, names in the order
# above); see passl/weights/naming.py.
_RELEASED_NAMES: Dict[str, Tuple[str, Tuple[str, ...]]] = {
    "google": (  # google-research/vision_transformer, vit_jax/models_mixer.py
        "flax",
        (
            "stem",
            "MixerBlock_{i}/LayerNorm_0",
            "MixerBlock_{i}/token_mixing/Dense_0",
            "MixerBlock_{i}/token_mixing/Dense_1",
            "MixerBlock_{i}/LayerNorm_1",
            "MixerBlock_{i}/channel_mixing/Dense_0",
            "MixerBlock_{i}/channel_mixing/Dense_1",
            "pre_head_layer_norm",
            "head",
        ),
    ),
    # timm/models/mlp_mixer.py; without "backbone." the names are the same
    "timm": ("torch", (*(name.replace("backbone.", "") for name in _LAYERS[:-1]), "head")),
    "mmpretrain": (  # mmpretrain/models/backbones/mlp_mixer.py
        "torch",
        (
            "backbone.patch_embed.projection",
            "backbone.layers.{i}.ln1",
            "backbone.layers.{i}.token_mix.layers.0.0",
            "backbone.layers.{i}.token_mix.layers.1",
            "backbone.layers.{i}.ln2",
            "backbone.layers.{i}.channel_mix.layers.0.0",
            "backbone.layers.{i}.channel_mix.layers.1",
            "backbone.ln1",
            "head.fc",
        ),
    ),
    # PASSL 1.0 and 1.1, passl/modeling/backbones/mlp_mixer.py
    "passl_v1": ("paddle", (*_LAYERS[:-1], "head.fc_cls")),
    "paddlevit": (  # BR-IDL/PaddleViT, image_classification/MLP-Mixer
        "paddle",
        (
            "patch_embed.patch_embed",
            "mixer_layers.{i}.norm1",
            "mixer_layers.{i}.mlp_tokens.fc1",
            "mixer_layers.{i}.mlp_tokens.fc2",
            "mixer_layers.{i}.norm2",
            "mixer_layers.{i}.mlp_channels.fc1",
            "mixer_layers.{i}.mlp_channels.fc2",
            "norm",
            "head",
        ),
    ),
    "ppim": (  # AgentMaker/Paddle-Image-Models, ppim/models/mixer.py
        "paddle",
        (
            "stem",
            "blocks.{i}.norm_0",
            "blocks.{i}.token_mixing.fc_0",
            "blocks.{i}.token_mixing.fc_1",
            "blocks.{i}.norm_1",
            "blocks.{i}.channel_mixing.fc_0",
            "blocks.{i}.channel_mixing.fc_1",
            "pre_head_layer_norm",
            "head",
        ),
    ),
}


@BACKBONES.register
class MlpMixer(nn.Layer):
    """The Mixer without its classification layer.

    Args:
        img_size: height and width of the images in pixels; one number for a square. The token
            MLPs' sizes depend on it, so a network serves one image size.
        patch_size: height and width of a patch.
        in_channels: channels of the images.
        embed_dim: C, the size of a token ("hidden size" in table 1).
        num_blocks: number of Mixer layers.
        tokens_mlp_dim: D_S.
        channels_mlp_dim: D_C.
        gelu_approximate: the tanh form of GELU instead of the exact erf form. The published
            accuracies were measured with the exact form.
        drop_rate: dropout after every linear map of the MLPs.
        drop_path_rate: stochastic depth of the last block.
        drop_path_mode: ``linear`` from 0 at the first block (the paper), or ``constant``.
        drop_path_rescale: see ``DropPath``; the paper's networks were trained without.
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
        embed_dim: int = 768,
        num_blocks: int = 12,
        tokens_mlp_dim: int = 384,
        channels_mlp_dim: int = 3072,
        gelu_approximate: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        drop_path_mode: str = "linear",
        drop_path_rescale: bool = True,
        stage_blocks: Optional[Sequence[int]] = None,
    ):
        super().__init__()
        check_sizes(
            in_channels=in_channels,
            embed_dim=embed_dim,
            num_blocks=num_blocks,
            tokens_mlp_dim=tokens_mlp_dim,
            channels_mlp_dim=channels_mlp_dim,
        )
        check_drop_rate(drop_rate)
        self.num_features = embed_dim
        self.stem = PatchEmbed(img_size, patch_size, in_channels, embed_dim)
        self.blocks = nn.LayerList(
            [
                MixerBlock(
                    self.stem.num_patches,
                    embed_dim,
                    tokens_mlp_dim,
                    channels_mlp_dim,
                    gelu_approximate,
                    drop_rate,
                    DropPath(rate, drop_path_rescale),
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
        # The authors' code leaves Flax's defaults: LeCun normal kernels, zero biases.
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                lecun_normal_(layer.weight, fan_in=layer.weight.shape[0])
                zeros_(layer.bias)
            elif isinstance(layer, nn.Conv2D):
                out_channels = layer.weight.shape[0]
                lecun_normal_(layer.weight, fan_in=layer.weight.size // out_channels)
                zeros_(layer.bias)

    released_names = {
        publisher: (convention, dict(zip(_LAYERS, names)))
        for publisher, (convention, names) in _RELEASED_NAMES.items()
    }

    def adapt_weight(
        self, name: str, shape: Sequence[int], publisher: str
    ) -> Optional[Tuple[Callable[[np.ndarray], np.ndarray], str]]:
        """Says how a released weight for smaller images becomes one of this network's.

        The scheme is the paper's (appendix C): for images K times as large in both directions,
        K an integer, the token-mixing weights become block-diagonal, with one copy for each of
        the K×K tiles of the image. The new network then computes, tile by tile, what the old
        one computed.

        Args:
            name: a parameter of this network.
            shape: its shape in the file, in Paddle's layout, different from that here.
            publisher: whose names the file uses.

        Returns:
            A function from the old array to the new, and a sentence that says what it does; None
            where the size of the images does not explain the difference.

        Raises:
            PasslError: another number of tokens, which the scheme does not cover; says why.
        """
        parameter = name.partition(".mlp_tokens.")[2]
        own = {n: list(p.shape) for n, p in self.blocks[0].mlp_tokens.state_dict().items()}
        if parameter not in own or len(shape) != len(own[parameter]):
            return None
        tokens, hidden = own["fc1.weight"]
        old_tokens = 0
        if parameter == "fc1.bias":
            square = hidden / shape[0]
        else:
            old_tokens = shape[0] if parameter == "fc1.weight" else shape[-1]
            if old_tokens == tokens:
                return None
            square = tokens / old_tokens
        k = math.isqrt(int(square))
        height, width = self.stem.grid
        # As many tokens as a square has are taken for those of a square image: the file cannot say.
        from_square = bool(old_tokens) and math.isqrt(old_tokens) ** 2 == old_tokens
        stretched = from_square and height != width
        if k < 2 or k * k != square or height % k or width % k or stretched:
            if not old_tokens:
                return None
            raise PasslError(
                f"it is for {old_tokens} tokens (patches of an image), this network has "
                f"{height}×{width} = {tokens}; MLP-Mixer's weights depend on the position, and can "
                "only be used for images that are 2, 3, … times as large in both directions "
                "(arXiv 2105.01601, appendix C)"
            )
        if parameter != "fc2.bias":
            old_hidden = shape[-1] if parameter.startswith("fc1") else shape[0]
            if old_hidden * k * k != hidden:
                raise PasslError(
                    f"for images {k} times as large, tokens_mlp_dim must be {k}² times as large "
                    f"too: set -o model.architecture.tokens_mlp_dim={old_hidden * k * k}"
                )
        return (
            lambda array: _repeat_for_tiles(parameter, array, (height, width), k),
            f"token-mixing weights repeated for {k}×{k} tiles of the image",
        )

    @property
    def parameter_depths(self) -> Dict[str, int]:
        """How deep each parameter lies, see ``column_depths``."""
        return column_depths(self)

    def pictured_weights(self) -> Dict[str, Tuple[str, np.ndarray]]:
        """Returns what figures 5 to 7 of the paper show: name -> (kind, weights).

        ``stem``: the patch embedding, ``[C, in_channels, patch, patch]``; ``token_mixing``: for
        each block, what every hidden unit takes of each patch of the grid, ``[D_S, H, W]``.
        """
        pictured = {"stem": ("stem", self.stem.proj.weight.numpy())}
        for i, block in enumerate(self.blocks):
            weight = block.mlp_tokens.fc1.weight.numpy()  # [S, D_S]
            kernels = weight.T.reshape(-1, *self.stem.grid)
            pictured[f"token_mixing_{i:02d}"] = ("token_mixing", kernels)
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


def _repeat_for_tiles(
    parameter: str, array: np.ndarray, grid: Tuple[int, int], k: int
) -> np.ndarray:
    """Returns a token-mixing parameter for ``grid`` tokens, k×k times those of ``array``."""
    height, width = grid[0] // k, grid[1] // k
    # tokens[t]: where the tokens of tile t stand in the raster order of the whole image.
    raster = np.arange(grid[0] * grid[1]).reshape(k, height, k, width)
    tokens = raster.transpose(0, 2, 1, 3).reshape(k * k, -1)
    if parameter == "fc1.bias":
        return np.tile(array, k * k)
    new = np.zeros([size * k * k for size in array.shape], array.dtype)
    hidden = array.shape[1 if parameter == "fc1.weight" else 0]
    for tile, at in enumerate(tokens):
        units = np.arange(tile * hidden, (tile + 1) * hidden)
        if parameter == "fc1.weight":  # [S, D_S]
            new[np.ix_(at, units)] = array
        elif parameter == "fc2.weight":  # [D_S, S]
            new[np.ix_(units, at)] = array
        else:  # fc2.bias, [S]
            new[at] = array
    return new


# Table 1 of the paper: name, patch, blocks, C, D_S, D_C.
for _name, _patch, _blocks, _c, _d_s, _d_c in (
    ("mlp_mixer_s32_224", 32, 8, 512, 256, 2048),
    ("mlp_mixer_s16_224", 16, 8, 512, 256, 2048),
    ("mlp_mixer_b32_224", 32, 12, 768, 384, 3072),
    ("mlp_mixer_b16_224", 16, 12, 768, 384, 3072),
    ("mlp_mixer_l32_224", 32, 24, 1024, 512, 4096),
    ("mlp_mixer_l16_224", 16, 24, 1024, 512, 4096),
    ("mlp_mixer_h14_224", 14, 32, 1280, 640, 5120),
):
    BACKBONES.register_variant(
        _name,
        MlpMixer,
        img_size=224,
        patch_size=_patch,
        num_blocks=_blocks,
        embed_dim=_c,
        tokens_mlp_dim=_d_s,
        channels_mlp_dim=_d_c,
    )
