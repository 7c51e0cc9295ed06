"""CvT, the Convolutional vision Transformer.

Wu, Xiao, Codella, Liu, Dai, Yuan, Zhang: "CvT: Introducing Convolutions to Vision Transformers",
arXiv 2103.15808 (ICCV 2021); the authors' code is github.com/microsoft/CvT,
lib/models/cls_cvt.py with the settings of experiments/imagenet/cvt.

Legend for shapes: N images, H and W the height and width of a feature map, S = H·W its positions,
C its channels, with an index for the stage; T tokens: the positions in raster order and, in the
last stage, a class token before them.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, List, Sequence, Tuple

import paddle
from paddle import nn

from passl.modeling.backbones.registry import BACKBONES
from passl.modeling.layers import (
    BatchNorm2D,
    Conv2D,
    DropPath,
    LayerNorm,
    Linear,
    Mlp,
    QuickGELU,
    attend,
    check_drop_rate,
    check_heads,
    check_input,
    check_sizes,
    join_heads,
    normal_,
    split_heads,
    torch_default_,
    zeros_,
)
from passl.modeling.layers import drop_path_rates as rates_of_blocks
from passl.modeling.layers.functional import channels_last, swap_axes
from passl.utils.errors import PasslError


class ConvEmbed(nn.Layer):
    """Convolutional token embedding (section 3.1): overlapping patches, then a norm.

    Shape:
        input: ``[N, in_channels, H, W]``;
        output: ``[N, H', W', C]``, sides ⌊(side + 2 · padding - kernel_size) / stride⌋ + 1.
    """

    def __init__(
        self, in_channels: int, channels: int, kernel_size: int, stride: int, padding: int
    ):
        super().__init__()
        self.proj = Conv2D(in_channels, channels, kernel_size, stride=stride, padding=padding)
        # Epsilon 1e-5 here and in all other norms, as in the authors' code.
        self.norm = LayerNorm(channels, epsilon=1e-5)

    def forward(self, x):
        return self.norm(channels_last(self.proj(x)))


class ConvProjection(nn.Layer):
    """The convolutional part of a projection (section 3.2): depthwise 3×3, batch normalisation.

    Shape:
        input: ``[N, C, H, W]``; output: tokens ``[N, ⌈H / stride⌉ · ⌈W / stride⌉, C]``.
    """

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2D(
            channels, channels, 3, stride=stride, padding=1, groups=channels, bias_attr=False
        )
        # 0.9 of the old statistics stay: torch's momentum of 0.1.
        self.norm = BatchNorm2D(channels, momentum=0.9, epsilon=1e-5)

    def forward(self, x):
        return swap_axes(self.norm(self.conv(x)).flatten(2), 1, 2)


class ProjectedAttention(nn.Layer):
    """Multi-head attention of queries, keys and values that come apart, each with a linear map.

    Args:
        channels: C; a multiple of ``heads``.
        heads: H in ``attend``.
        dropout: probability of zeroing an element after the last linear map.
        attention_dropout: probability of zeroing an attention weight.

    Shape:
        inputs: ``[N, T, C]`` for the queries, ``[N, T', C]`` for keys and values; output:
        ``[N, T, C]``.
    """

    recompute = True  # as one piece, where activations are to be computed twice

    def __init__(self, channels: int, heads: int, dropout: float, attention_dropout: float):
        super().__init__()
        # Not by the width of a head: the authors' code takes that of all heads together.
        self.heads, self.scale = heads, channels**-0.5
        self.proj_q = Linear(channels, channels)
        self.proj_k = Linear(channels, channels)
        self.proj_v = Linear(channels, channels)
        self.proj = Linear(channels, channels)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.attention_dropout = attention_dropout

    def forward(self, q, k, v):
        q, k, v = self.proj_q(q), self.proj_k(k), self.proj_v(v)
        q, k, v = (split_heads(part, self.heads)[0] for part in (q, k, v))
        dropout = self.attention_dropout if self.training else 0.0
        return self.drop(self.proj(join_heads(attend(q, k, v, self.scale, dropout=dropout))))


class CvtMlp(Mlp):
    """The MLP of a block."""

    recompute = True  # as one piece, where activations are to be computed twice


class CvtBlock(nn.Layer):
    """Attention over convolutional projections, then an MLP, each after a norm, with residuals.

    Activations of the attention and of the MLP may be computed twice, those of the block as a whole
    not: the running statistics of the projections would be updated twice as well.

    Args:
        channels: C.
        heads: of the attention.
        hidden: width of the MLP.
        before: tokens before the positions, which the convolutions leave out: 0 or 1.
        dropout: probability after the attention and after each map of the MLP.
        attention_dropout: probability of zeroing an attention weight.
        drop_path: of both residual branches.

    Shape:
        input and output: ``[N, T, C]``; ``size``: height and width of the map.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        hidden: int,
        before: int,
        dropout: float,
        attention_dropout: float,
        drop_path: DropPath,
    ):
        super().__init__()
        self.before = before
        self.norm1 = LayerNorm(channels, epsilon=1e-5)
        self.conv_q = ConvProjection(channels, stride=1)
        # Keys and values are fewer: section 3.2, "squeezed convolutional projection".
        self.conv_k = ConvProjection(channels, stride=2)
        self.conv_v = ConvProjection(channels, stride=2)
        self.attn = ProjectedAttention(channels, heads, dropout, attention_dropout)
        self.norm2 = LayerNorm(channels, epsilon=1e-5)
        self.mlp = CvtMlp(channels, hidden, dropout=dropout, act=QuickGELU())
        self.drop_path = drop_path

    def forward(self, x, size):
        normed = self.norm1(x)
        image = _as_map(normed, size, self.before)
        q, k, v = self.conv_q(image), self.conv_k(image), self.conv_v(image)
        if self.before:
            token = normed[:, : self.before]
            q, k, v = (paddle.concat([token, part], axis=1) for part in (q, k, v))
        x = x + self.drop_path(self.attn(q, k, v))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class CvtStage(nn.Layer):
    """A convolutional embedding, and blocks over its tokens.

    Args:
        in_channels: channels of the map that comes in.
        channels: C.
        first: whether it is the network's first stage, whose windows are larger and further apart.
        with_token: whether a learned class token is put before the positions.
        heads, hidden, dropout, attention_dropout: as of ``CvtBlock``.
        rates: stochastic depth of each block.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, T, C]``, and height and width of the map.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        first: bool,
        with_token: bool,
        heads: int,
        hidden: int,
        dropout: float,
        attention_dropout: float,
        rates: Sequence[float],
    ):
        super().__init__()
        windows = (7, 4, 2) if first else (3, 2, 1)  # size, stride, padding
        self.patch_embed = ConvEmbed(in_channels, channels, *windows)
        self.cls_token = self.create_parameter([1, 1, channels]) if with_token else None
        self.before = int(with_token)
        self.pos_drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.blocks = nn.LayerList(
            [
                CvtBlock(
                    channels,
                    heads,
                    hidden,
                    self.before,
                    dropout,
                    attention_dropout,
                    DropPath(rate),
                )
                for rate in rates
            ]
        )

    def forward(self, x):
        x = self.patch_embed(x)
        size = x.shape[1:3]
        x = x.flatten(1, 2)
        if self.cls_token is not None:
            token = self.cls_token.expand([x.shape[0], -1, -1]).astype(x.dtype)
            x = paddle.concat([token, x], axis=1)
        x = self.pos_drop(x)
        for block in self.blocks:
            x = block(x, size)
        return x, size


_BLOCK = "backbone.stages.{i}.blocks.{j}"
_LAYERS = (
    "backbone.stages.{i}.patch_embed.proj",
    "backbone.stages.{i}.patch_embed.norm",
    "backbone.stages.{i}.cls_token[1, 1, :]",
    f"{_BLOCK}.norm1",
    *(f"{_BLOCK}.conv_{part}.{layer}" for part in "qkv" for layer in ("conv", "norm")),
    *(f"{_BLOCK}.attn.proj_{part}" for part in "qkv"),
    f"{_BLOCK}.attn.proj",
    f"{_BLOCK}.norm2",
    f"{_BLOCK}.mlp.fc1",
    f"{_BLOCK}.mlp.fc2",
    "backbone.norm",
    "head.fc",
)


def _names(stage: str, layers: Tuple[str, str], outside: str, head: str) -> Tuple[str, ...]:
    """Returns a publisher's names, in the order of ``_LAYERS``.

    Args:
        stage: what it calls a stage.
        layers: what it calls convolution and batch normalisation of a projection.
        outside: what stands before the last norm.
        head: what it calls the classification layer.
    """
    block = f"{stage}.blocks.{{j}}"
    return (
        f"{stage}.patch_embed.proj",
        f"{stage}.patch_embed.norm",
        f"{stage}.cls_token[1, 1, :]",
        f"{block}.norm1",
        *(f"{block}.attn.conv_proj_{part}.{layer}" for part in "qkv" for layer in layers),
        *(f"{block}.attn.proj_{part}" for part in "qkv"),
        f"{block}.attn.proj",
        f"{block}.norm2",
        f"{block}.mlp.fc1",
        f"{block}.mlp.fc2",
        f"{outside}norm",
        head,
    )


_RELEASED_NAMES: Dict[str, Tuple[str, Tuple[str, ...]]] = {
    "microsoft": ("torch", _names("stage{i}", ("conv", "bn"), "", "head")),
    # PASSL 1.0 and 1.1, passl/modeling/backbones/cvt.py
    "passl_v1": ("paddle", _names("backbone.stage{i}", ("0", "1"), "backbone.", "head.fc_cls")),
    # ppcls/arch/backbone/model_zoo/cvt.py
    "paddleclas": ("paddle", _names("stage{i}", ("conv", "bn"), "", "head")),
    # BR-IDL/PaddleViT, image_classification/CvT
    "paddlevit": ("paddle", _names("stages.{i}", ("0", "1"), "", "head")),
}


@BACKBONES.register
class Cvt(nn.Layer):
    """CvT without its classification layer.

    Stages at a 4th, 8th and 16th of the image's size (table 2). There are no positions, so that one
    network serves images of any size. A class token joins in the last stage, and what has become of
    it is what the network says.

    Args:
        in_channels: channels of the images.
        embed_dims: C of each stage.
        depths: blocks of each stage.
        num_heads: of the attention of each stage; divides its C.
        mlp_ratio: width of the MLPs, in units of C.
        drop_rate: dropout of each stage's first tokens, after the attention and after each map of
            the MLPs.
        attention_drop_rate: dropout of the attention weights.
        drop_path_rates: stochastic depth of the last block of each stage, rising linearly from 0 at
            the stage's first.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, C]`` with the last stage's C.

    Attributes:
        num_features: C of the last stage.
        stage_channels: C of each stage.
        stage_strides: pixels of the image that one step on a stage's map is.

    Raises:
        PasslError: lists that do not fit together, sizes that cannot be, or an image with fewer
            than 3 pixels along a side.
    """

    released_names = {
        publisher: (convention, dict(zip(_LAYERS, names)))
        for publisher, (convention, names) in _RELEASED_NAMES.items()
    }

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: Sequence[int] = (64, 192, 384),
        depths: Sequence[int] = (1, 2, 10),
        num_heads: Sequence[int] = (1, 3, 6),
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
        drop_path_rates: Sequence[float] = (0.0, 0.0, 0.0),
    ):
        super().__init__()
        counts = [len(given) for given in (embed_dims, depths, num_heads, drop_path_rates)]
        if len(set(counts)) != 1 or not counts[0]:
            raise PasslError(
                "embed_dims, depths, num_heads and drop_path_rates have a number for each stage, "
                f"so as many as one another, not {', '.join(map(str, counts[:-1]))} and "
                f"{counts[-1]}"
            )
        hidden = [int(channels * mlp_ratio) for channels in embed_dims]
        check_sizes(in_channels=in_channels, embed_dims=embed_dims, depths=depths, mlp_ratio=hidden)
        for channels, heads in zip(embed_dims, num_heads):
            check_heads(channels, heads)
        check_drop_rate(drop_rate)
        check_drop_rate(attention_drop_rate)
        self.in_channels = in_channels
        self.num_features = embed_dims[-1]
        self.stage_channels: List[int] = list(embed_dims)
        self.stage_strides: List[int] = [4 * 2**i for i in range(len(depths))]
        last = len(depths) - 1
        self.stages = nn.LayerList(
            [
                CvtStage(
                    embed_dims[i - 1] if i else in_channels,
                    embed_dims[i],
                    i == 0,
                    i == last,
                    num_heads[i],
                    hidden[i],
                    drop_rate,
                    attention_drop_rate,
                    rates_of_blocks(drop_path_rates[i], depths[i]),
                )
                for i in range(len(depths))
            ]
        )
        self.norm = LayerNorm(self.num_features, epsilon=1e-5)
        self._initialize()

    def _initialize(self) -> None:
        # _init_weights_trunc_normal of the authors' code: normal weights of standard deviation 0.02
        # and zero biases of linear maps; it leaves convolutions as torch has them.
        normal_(self.stages[-1].cls_token, std=0.02)
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                normal_(layer.weight, std=0.02)
                zeros_(layer.bias)
            elif isinstance(layer, nn.Conv2D):
                torch_default_(layer)

    @property
    def parameter_depths(self) -> Dict[str, int]:
        """How deep each parameter lies, from 0, for layer-wise learning rates.

        The first embedding is the first layer, each block one; what lies before a stage belongs to
        its first block, and the norm to the last block.
        """
        places, blocks = {"stages.0.patch_embed.": 0}, 0
        for i, stage in enumerate(self.stages):
            begin = blocks + 1
            for j, _ in enumerate(stage.blocks):
                blocks += 1
                places[f"stages.{i}.blocks.{j}."] = blocks
            places[f"stages.{i}."] = begin  # the rest of it, so asked for last
        places["norm."] = blocks
        return {
            name: next(depth for place, depth in places.items() if name.startswith(place))
            for name, _ in self.named_parameters()
        }

    @property
    def no_weight_decay(self) -> FrozenSet[str]:
        """Parameters that never decay besides biases and norms: the class token."""
        return frozenset({f"stages.{len(self.stages) - 1}.cls_token"})

    def _run(self, x) -> Tuple[List[paddle.Tensor], paddle.Tensor]:
        """Returns the map of each stage, ``[N, C_i, H_i, W_i]``, and the last stage's tokens."""
        check_input(x, self.in_channels)
        # A side that a static program leaves open is -1, or a tensor.
        if any(isinstance(side, int) and side in (1, 2) for side in x.shape[2:]):
            raise PasslError(
                f"an image of {x.shape[2]}×{x.shape[3]} is smaller than a patch; CvT takes images "
                "of 3 pixels and more along each side, so enlarge the transforms' size"
            )
        maps, tokens = [], x
        for stage in self.stages:
            tokens, size = stage(x)
            x = _as_map(tokens, size, stage.before)
            maps.append(x)
        return maps, tokens

    def forward_stages(self, x) -> List[paddle.Tensor]:
        """Returns the feature map of every stage, ``[N, C_i, H_i, W_i]``, for dense prediction.

        They come as the stage leaves them, that of the last one without the class token.
        """
        return self._run(x)[0]

    def forward_features(self, x):
        """Returns the normalised tokens of the last stage, ``[N, 1 + S, C]``, class token first."""
        return self.norm(self._run(x)[1])

    def forward(self, x):
        return self.forward_features(x)[:, 0]


def _as_map(tokens: paddle.Tensor, size: Sequence[int], before: int) -> paddle.Tensor:
    """Returns tokens ``[N, before + S, C]`` without the first as a map ``[N, C, H, W]``."""
    if before:
        tokens = tokens[:, before:]
    return swap_axes(tokens, 1, 2).reshape([-1, tokens.shape[2], *size])


# Table 2 of the paper: name, C, blocks, heads by stage.
for _name, _dims, _depths, _heads in (
    ("cvt_13", (64, 192, 384), (1, 2, 10), (1, 3, 6)),
    ("cvt_21", (64, 192, 384), (1, 4, 16), (1, 3, 6)),
    ("cvt_w24", (192, 768, 1024), (2, 2, 20), (3, 12, 16)),
):
    BACKBONES.register_variant(_name, Cvt, embed_dims=_dims, depths=_depths, num_heads=_heads)
