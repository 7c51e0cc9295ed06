"""Tokens-to-Token ViT (T2T-ViT).

Yuan, Chen, Wang, Yu, Shi, Jiang, Tay, Feng, Yan: "Tokens-to-Token ViT: Training Vision Transformers
from Scratch on ImageNet", arXiv 2101.11986 (ICCV 2021); the authors' code is
github.com/yitu-opensource/T2T-ViT, models/t2t_vit.py.

Legend for shapes: N images, T tokens while they are being made, S tokens of the backbone (patches
and the class token before them), C channels of a token, m random features.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, FrozenSet, List, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from passl.modeling.backbones.registry import BACKBONES
from passl.modeling.layers import (
    GELU,
    DropPath,
    LayerNorm,
    Linear,
    Mlp,
    TransformerBlock,
    attend,
    check_drop_rate,
    check_heads,
    check_image_size,
    check_input,
    check_sizes,
    column_depths,
    drop_path_rates,
    join_heads,
    normal_,
    split_heads,
    stage_ends,
    stage_maps,
    to_pair,
    zeros_,
)
from passl.modeling.layers.functional import swap_axes
from passl.modeling.layers.patch_embed import Size
from passl.utils.errors import PasslError
from passl.utils.widened import widened

# Torch's default, which the authors leave everywhere.
_EPSILON = 1e-5
# Dropout of the performers, which the authors' code fixes and `drop_rate` does not change.
_PERFORMER_DROP_RATE = 0.1
# How far the tokens of the backbone are apart, in pixels: 4 by the first soft split, then twice 2.
_STRIDE = 16


def soft_split(x: paddle.Tensor, size: int, stride: int, padding: int) -> paddle.Tensor:
    """Returns overlapping patches of a map as tokens ("soft split", section 3.1).

    Args:
        x: ``[N, C, H, W]``.
        size, stride, padding: of the square windows.

    Returns:
        ``[N, T, C·size·size]`` in raster order; of a token's channels those of one channel of the
        map lie together, in the raster order of the window.
    """
    return swap_axes(F.unfold(x, size, stride, padding), 1, 2)


class TokenPerformer(nn.Layer):
    """A transformer layer whose attention costs time and memory linear in T.

    Softmax is replaced by positive random features (Choromanski et al., "Rethinking Attention with
    Performers", arXiv 2009.14794, lemma 1): ``exp(q·k)`` is, on average, the product of ``φ(q)``
    and ``φ(k)`` with ``φ(x) = exp(w·x - |x|² / 2) / √m``. The residual goes around the attention
    from the values, for the input has other channels than the output.

    Args:
        in_channels: of the input.
        channels: C, of the output, from 2.

    Attributes:
        w: ``[m, C]``, m = C / 2: orthogonal rows of length √m. They are drawn once and never learn,
            and belong to the weights all the same: all others have adapted to them.

    Shape:
        input: ``[N, T, in_channels]``; output: ``[N, T, C]``.
    """

    recompute = True  # as one piece, where activations are to be computed twice

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        features = channels // 2
        self.norm1 = LayerNorm(in_channels, _EPSILON)
        self.kqv = Linear(in_channels, 3 * channels)
        self.w = self.create_parameter(
            [features, channels],
            attr=paddle.ParamAttr(trainable=False),
            default_initializer=nn.initializer.Orthogonal(gain=math.sqrt(features)),
        )
        self.proj = Linear(channels, channels)
        self.drop = nn.Dropout(_PERFORMER_DROP_RATE)
        self.norm2 = LayerNorm(channels, _EPSILON)
        self.mlp = nn.Sequential(
            Linear(channels, channels),
            GELU(),
            Linear(channels, channels),
            nn.Dropout(_PERFORMER_DROP_RATE),
        )

    def features(self, x):
        """Returns φ of each token, ``[N, T, C]`` to ``[N, T, m]``."""
        _, tokens, channels = x.shape
        w = widened(self.w).transpose([1, 0]).unsqueeze(0)
        directed = paddle.bmm(x.reshape([1, -1, channels]), w).reshape([-1, tokens, w.shape[2]])
        half = (x * x).sum(axis=-1, keepdim=True) * 0.5
        return paddle.exp(directed - half) * w.shape[2] ** -0.5

    def attention(self, x):
        """Returns what comes of the tokens, ``[N, T, in_channels]`` to ``[N, T, C]``."""
        k, q, v = self.kqv(x).split(3, axis=-1)
        # φ reaches e^(m / 2), 9·10⁶ for 32 features, and is summed over all tokens: float16 ends
        # at 65504. So the products are `bmm`, which mixed precision leaves in float32, also in the
        # static programs of PaddlePaddle 2.6, where no part can be taken out of it.
        queries, keys = self.features(widened(q)), self.features(widened(k))
        keys = keys.transpose([0, 2, 1])
        values = paddle.bmm(keys, widened(v))  # [N, m, C]
        weights = paddle.bmm(queries, keys.sum(axis=2, keepdim=True))  # [N, T, 1]
        mixed = paddle.bmm(queries, values) / (weights + 1e-8)
        return v + self.drop(self.proj(mixed.astype(v.dtype)))

    def forward(self, x):
        x = self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TokenAttention(nn.Layer):
    """Attention of one head, with a residual from the values.

    Args:
        in_channels: of the input; the scale is one by the root of these, as in the authors' code.
        channels: C, of the output.

    Shape:
        input: ``[N, T, in_channels]``; output: ``[N, T, C]``.
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.scale = in_channels**-0.5
        self.qkv = Linear(in_channels, 3 * channels, bias_attr=False)
        self.proj = Linear(channels, channels)

    def forward(self, x):
        q, k, v = split_heads(self.qkv(x), 1, 3)
        return join_heads(v) + self.proj(join_heads(attend(q, k, v, self.scale)))


class TokenTransformer(nn.Layer):
    """A transformer layer of one head that changes the number of channels.

    Args:
        in_channels: of the input.
        channels: C, of the output.

    Shape:
        input: ``[N, T, in_channels]``; output: ``[N, T, C]``.
    """

    recompute = True  # as one piece, where activations are to be computed twice

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.norm1 = LayerNorm(in_channels, _EPSILON)
        self.attn = TokenAttention(in_channels, channels)
        self.norm2 = LayerNorm(channels, _EPSILON)
        self.mlp = Mlp(channels, channels)

    def forward(self, x):
        x = self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


_TOKEN_LAYERS = {"performer": TokenPerformer, "transformer": TokenTransformer}


class TokensToToken(nn.Layer):
    """Makes tokens of an image in three soft splits (section 3.1).

    Windows of 7 pixels, 4 apart, become tokens; a transformer layer relates them to one another;
    laid out as a map again, its windows of 3, 2 apart, become the next tokens. Neighbours share
    what their windows overlap in.

    Args:
        img_size: height and width of the images, in pixels: multiples of 16.
        in_channels: channels of the images.
        embed_dim: C, channels of the tokens at the end.
        tokens: what the layers in between are, ``performer`` or ``transformer``.
        token_dim: their channels.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, H / 16 · W / 16, C]`` in raster order.

    Attributes:
        grid: H / 16 and W / 16.

    Raises:
        PasslError: at construction, an image size that is no multiple of 16 or an unknown kind of
            layers; in ``forward``, what is no image of this size.
    """

    def __init__(
        self, img_size: Size, in_channels: int, embed_dim: int, tokens: str, token_dim: int
    ):
        super().__init__()
        self.img_size = to_pair(img_size, "img_size")
        if any(size % _STRIDE for size in self.img_size):
            raise PasslError(
                f"T2T-ViT's tokens are {_STRIDE} pixels apart, so img_size consists of multiples "
                f"of {_STRIDE}, not {self.img_size[0]}×{self.img_size[1]}"
            )
        if tokens not in _TOKEN_LAYERS:
            raise PasslError(f"tokens is 'performer' or 'transformer', not '{tokens}'")
        self.grid = tuple(size // _STRIDE for size in self.img_size)
        self.in_channels = in_channels
        layer = _TOKEN_LAYERS[tokens]
        self.attention1 = layer(7 * 7 * in_channels, token_dim)
        self.attention2 = layer(3 * 3 * token_dim, token_dim)
        self.project = Linear(3 * 3 * token_dim, embed_dim)

    def _as_map(self, tokens, stride: int):
        height, width = (size // stride for size in self.img_size)
        return swap_axes(tokens, 1, 2).reshape([-1, tokens.shape[2], height, width])

    def forward(self, x):
        check_input(x, self.in_channels)
        check_image_size(x, self.img_size)
        x = self.attention1(soft_split(x, 7, 4, 2))
        x = self.attention2(soft_split(self._as_map(x, 4), 3, 2, 1))
        return self.project(soft_split(self._as_map(x, 8), 3, 2, 1))


def sinusoid_positions(count: int, channels: int) -> np.ndarray:
    """Returns fixed positions, of sines and cosines in turn.

    Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, section 3.5: wave lengths from 2π
    to 10000·2π. Tokens are numbered in raster order from 1; the class token is the number 0.

    Args:
        count: S.
        channels: C.

    Returns:
        ``[S, C]``, float64.
    """
    channel = np.arange(channels)
    angles = np.arange(count)[:, None] / 10000.0 ** (channel // 2 * 2 / channels)
    return np.where(channel % 2, np.cos(angles), np.sin(angles))


# Layer here -> layer in the authors' code; both kinds of token layers.
_NAMES = {
    "backbone.tokens_to_token.attention{i}.norm1": "tokens_to_token.attention{i}.norm1",
    "backbone.tokens_to_token.attention{i}.kqv": "tokens_to_token.attention{i}.kqv",
    "backbone.tokens_to_token.attention{i}.w[:, :]": "tokens_to_token.attention{i}.w[:, :]",
    "backbone.tokens_to_token.attention{i}.proj": "tokens_to_token.attention{i}.proj",
    "backbone.tokens_to_token.attention{i}.attn.qkv": "tokens_to_token.attention{i}.attn.qkv",
    "backbone.tokens_to_token.attention{i}.attn.proj": "tokens_to_token.attention{i}.attn.proj",
    "backbone.tokens_to_token.attention{i}.norm2": "tokens_to_token.attention{i}.norm2",
    "backbone.tokens_to_token.attention{i}.mlp.0": "tokens_to_token.attention{i}.mlp.0",
    "backbone.tokens_to_token.attention{i}.mlp.2": "tokens_to_token.attention{i}.mlp.2",
    "backbone.tokens_to_token.attention{i}.mlp.fc1": "tokens_to_token.attention{i}.mlp.fc1",
    "backbone.tokens_to_token.attention{i}.mlp.fc2": "tokens_to_token.attention{i}.mlp.fc2",
    "backbone.tokens_to_token.project": "tokens_to_token.project",
    "backbone.cls_token[1, 1, :]": "cls_token[1, 1, :]",
    "backbone.pos_embed[1, :, :]": "pos_embed[1, :, :]",
    "backbone.blocks.{i}.norm1": "blocks.{i}.norm1",
    "backbone.blocks.{i}.attn.qkv": "blocks.{i}.attn.qkv",
    "backbone.blocks.{i}.attn.proj": "blocks.{i}.attn.proj",
    "backbone.blocks.{i}.norm2": "blocks.{i}.norm2",
    "backbone.blocks.{i}.mlp.fc1": "blocks.{i}.mlp.fc1",
    "backbone.blocks.{i}.mlp.fc2": "blocks.{i}.mlp.fc2",
    "backbone.norm": "norm",
    "head.fc": "head",
}


def _paddlevit(name: str) -> str:
    name = name.replace("tokens_to_token.project", "patch_embed.proj")
    return name.replace("tokens_to_token.attention", "patch_embed.attn")


@BACKBONES.register
class T2tVit(nn.Layer):
    """T2T-ViT without its classification layer.

    Args:
        img_size: height and width of the images in pixels, multiples of 16; one number for a
            square. A network serves one image size; of released weights for another one all but
            the positions are taken, which are the same function of the place.
        in_channels: channels of the images.
        tokens: the layers that make the tokens: ``performer`` (T2T-ViT-7 to 24), or ``transformer``
            (T2T-ViT_t), whose attention compares 3136 tokens of an image of 224 pixels.
        embed_dim: C ("hidden dims" in table 1).
        num_blocks: layers of the backbone ("depth").
        num_heads: of their attention; divides C.
        mlp_ratio: width of their MLPs, in units of C.
        token_dim: channels of the layers that make the tokens.
        drop_rate: dropout after the positions, the attention's projection and each map of the MLPs
            of the backbone. Performers have their own, of 0.1, as in the authors' code.
        attention_drop_rate: dropout of the attention weights of the backbone.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0 at the first.
        stage_blocks: after which blocks ``forward_stages`` takes its maps, counted from 1; by
            default after a quarter, half, three quarters and all of them.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, C]``.

    Attributes:
        num_features: C.
        stage_channels: C for each map.
        stage_strides: 16 for each map.

    Raises:
        PasslError: sizes that do not fit together, or an image of another size.
    """

    released_names = {
        # The files hold the moving average that the paper's accuracies are of.
        "yitu": ("torch", _NAMES, {"average": True}),
        # PASSL 1.0 and 1.1, passl/modeling/backbones/t2t_vit.py
        "passl_v1": (
            "paddle",
            {
                here: "head.fc_cls" if there == "head" else f"backbone.{there}"
                for here, there in _NAMES.items()
            },
        ),
        # BR-IDL/PaddleViT, image_classification/T2T_ViT
        "paddlevit": ("paddle", {here: _paddlevit(there) for here, there in _NAMES.items()}),
    }

    def __init__(
        self,
        img_size: Size = 224,
        in_channels: int = 3,
        tokens: str = "performer",
        embed_dim: int = 384,
        num_blocks: int = 14,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        token_dim: int = 64,
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        stage_blocks: Optional[Sequence[int]] = None,
    ):
        super().__init__()
        hidden = int(embed_dim * mlp_ratio)
        check_sizes(
            in_channels=in_channels, embed_dim=embed_dim, num_blocks=num_blocks, mlp_ratio=hidden
        )
        check_sizes(2, token_dim=token_dim)  # half as many are the random features
        check_heads(embed_dim, num_heads)
        check_drop_rate(drop_rate)
        self.num_features = embed_dim
        self.tokens_to_token = TokensToToken(img_size, in_channels, embed_dim, tokens, token_dim)
        self.cls_token = self.create_parameter([1, 1, embed_dim])
        # A parameter that does not learn, as `w`, and no buffer: the authors count both.
        self.pos_embed = self.create_parameter(
            [1, 1 + math.prod(self.tokens_to_token.grid), embed_dim],
            attr=paddle.ParamAttr(trainable=False),
        )
        self.pos_drop = nn.Dropout(drop_rate) if drop_rate else nn.Identity()
        self.blocks = nn.LayerList(
            [
                TransformerBlock(
                    embed_dim,
                    num_heads,
                    hidden,
                    DropPath(rate),
                    qkv_bias=False,
                    epsilon=_EPSILON,
                    dropout=drop_rate,
                    attention_dropout=attention_drop_rate,
                )
                for rate in drop_path_rates(drop_path_rate, num_blocks)
            ]
        )
        self.norm = LayerNorm(embed_dim, _EPSILON)
        self._ends = stage_ends(stage_blocks, num_blocks)
        self.stage_channels: List[int] = [embed_dim] * len(self._ends)
        self.stage_strides: List[int] = [_STRIDE] * len(self._ends)
        self._initialize()

    def _positions(self) -> np.ndarray:
        return sinusoid_positions(*self.pos_embed.shape[1:])[None].astype(np.float32)

    def _initialize(self) -> None:
        # _init_weights of the authors' code; the performers' `w` has been drawn already.
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    zeros_(layer.bias)
        normal_(self.cls_token, std=0.02)
        positions = paddle.to_tensor(self._positions(), dtype=self.pos_embed.dtype)
        self.pos_embed.set_value(positions)

    def adapt_weight(
        self, name: str, shape: Sequence[int], publisher: str
    ) -> Optional[Tuple[Callable[[np.ndarray], np.ndarray], str]]:
        """Says how released positions for another image size become this network's.

        They are a function of the token's number, which is computed anew; the authors resize
        nothing either.

        Args:
            name: a parameter of this network.
            shape: its shape in the file, in Paddle's layout, different from that here.
            publisher: whose names the file uses.

        Returns:
            A function from the old array to the new, and a sentence that says what it does; None
            where the size of the images does not explain the difference. The function raises a
            PasslError where the file's positions are not those of the paper.
        """
        own = self.pos_embed.shape
        if name != "pos_embed" or len(shape) != 3 or shape[0] != 1 or shape[2] != own[2]:
            return None

        def renew(array: np.ndarray) -> np.ndarray:
            fixed = sinusoid_positions(*array.shape[1:])
            # Files of 16 bits are off by 4e-3.
            if not np.allclose(array[0].astype(np.float64), fixed, rtol=0.0, atol=0.01):
                raise PasslError(
                    f"the file's {array.shape[1] - 1} positions have been learned, so that those "
                    "of another image size do not follow from them; build the network with the "
                    "img_size of the file"
                )
            return self._positions().astype(array.dtype)

        height, width = self.tokens_to_token.grid
        return renew, (
            f"the fixed positions of {shape[1] - 1} patches computed anew for {height}×{width}"
        )

    @property
    def parameter_depths(self) -> Dict[str, int]:
        """How deep each parameter lies, see ``column_depths``; what makes tokens: the first."""
        return column_depths(self, ("tokens_to_token", "cls_token", "pos_embed"))

    @property
    def no_weight_decay(self) -> FrozenSet[str]:
        """Parameters that never decay besides biases and norms: the class token."""
        return frozenset(["cls_token"])

    def _embedded(self, x):
        """Returns the first block's input, ``[N, S, C]``."""
        x = self.tokens_to_token(x)
        token = self.cls_token.expand([x.shape[0], -1, -1]).astype(x.dtype)
        x = paddle.concat([token, x], axis=1)
        return self.pos_drop(x + self.pos_embed.astype(x.dtype))

    def forward_features(self, x):
        """Returns the normalised tokens before pooling, ``[N, S, C]``, the class token first."""
        x = self._embedded(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward_stages(self, x) -> List[paddle.Tensor]:
        """Returns maps of the patches after some of the blocks, ``[N, C, H / 16, W / 16]`` each."""
        grid = self.tokens_to_token.grid
        return stage_maps(self.blocks, self._embedded(x), self._ends, grid, before=1)

    def forward(self, x):
        return self.forward_features(x)[:, 0]


# Table 1 of the paper: name, what makes the tokens, C, blocks, heads, MLP ratio, image size.
for _name, _tokens, _c, _blocks, _heads, _ratio, _size in (
    ("t2t_vit_7_224", "performer", 256, 7, 4, 2, 224),
    ("t2t_vit_10_224", "performer", 256, 10, 4, 2, 224),
    ("t2t_vit_12_224", "performer", 256, 12, 4, 2, 224),
    ("t2t_vit_14_224", "performer", 384, 14, 6, 3, 224),
    ("t2t_vit_14_384", "performer", 384, 14, 6, 3, 384),
    ("t2t_vit_19_224", "performer", 448, 19, 7, 3, 224),
    ("t2t_vit_24_224", "performer", 512, 24, 8, 3, 224),
    ("t2t_vit_t_14_224", "transformer", 384, 14, 6, 3, 224),
    ("t2t_vit_t_19_224", "transformer", 448, 19, 7, 3, 224),
    ("t2t_vit_t_24_224", "transformer", 512, 24, 8, 3, 224),
):
    BACKBONES.register_variant(
        _name,
        T2tVit,
        img_size=_size,
        tokens=_tokens,
        embed_dim=_c,
        num_blocks=_blocks,
        num_heads=_heads,
        mlp_ratio=_ratio,
    )
