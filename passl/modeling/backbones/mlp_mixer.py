"""MLP-Mixer.

Tolstikhin, Houlsby, Kolesnikov, Beyer, Zhai, Unterthiner, Yung, Steiner, Keysers, Uszkoreit,
Lucic, Dosovitskiy: "MLP-Mixer: An all-MLP Architecture for Vision", arXiv 2105.01601.

Legend for shapes: N images, S tokens (patches), C channels of a token, D_S and D_C the hidden
widths of the token-mixing and channel-mixing MLPs.
"""

from __future__ import annotations

from typing import FrozenSet

from paddle import nn

from passl.modeling.backbones.registry import BACKBONES
from passl.modeling.layers import (
    DropPath,
    Mlp,
    PatchEmbed,
    drop_path_rates,
    lecun_normal_,
    zeros_,
)
from passl.modeling.layers.patch_embed import Size
from passl.utils.errors import PasslError


class MixerBlock(nn.Layer):
    """One Mixer layer (equation 1): tokens are mixed, then channels, each with a residual.

    Shape:
        input and output: ``[N, S, C]``.
    """

    def __init__(
        self,
        num_tokens: int,
        embed_dim: int,
        tokens_mlp_dim: int,
        channels_mlp_dim: int,
        gelu_approximate: bool,
        dropout: float,
        drop_path: float,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, epsilon=1e-6)
        self.mlp_tokens = Mlp(num_tokens, tokens_mlp_dim, gelu_approximate, dropout)
        self.norm2 = nn.LayerNorm(embed_dim, epsilon=1e-6)
        self.mlp_channels = Mlp(embed_dim, channels_mlp_dim, gelu_approximate, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x):
        # [N, S, C] -> [N, C, S]: the token MLP works on columns, shared across channels.
        tokens = self.norm1(x).transpose([0, 2, 1])
        x = x + self.drop_path(self.mlp_tokens(tokens).transpose([0, 2, 1]))
        return x + self.drop_path(self.mlp_channels(self.norm2(x)))


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

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, C]``.

    Attributes:
        num_features: C.

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
    ):
        super().__init__()
        sizes = {
            "in_channels": in_channels,
            "embed_dim": embed_dim,
            "num_blocks": num_blocks,
            "tokens_mlp_dim": tokens_mlp_dim,
            "channels_mlp_dim": channels_mlp_dim,
        }
        for name, size in sizes.items():
            if size < 1:
                raise PasslError(f"{name} must be at least 1, not {size}")
        if not 0.0 <= drop_rate < 1.0:
            raise PasslError(f"drop_rate lies in [0, 1), not {drop_rate}")
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
                    rate,
                )
                for rate in drop_path_rates(drop_path_rate, num_blocks, drop_path_mode)
            ]
        )
        self.norm = nn.LayerNorm(embed_dim, epsilon=1e-6)
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

    def forward(self, x):
        return self.forward_features(x).mean(axis=1)


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
