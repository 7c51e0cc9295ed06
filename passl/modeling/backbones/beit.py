"""BEiT, as it is fine-tuned; its pre-training is not here.

Bao, Dong, Piao, Wei: "BEiT: BERT Pre-Training of Image Transformers", arXiv 2106.08254; the
authors' code is github.com/microsoft/unilm, beit/modeling_finetune.py.

Legend for shapes: N images, S patches, C channels of a token, H heads.
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
    Linear,
    Mlp,
    PatchEmbed,
    attend,
    check_drop_rate,
    check_heads,
    check_sizes,
    column_depths,
    drop_path_rates,
    functional,
    join_heads,
    normal_,
    resized_positions,
    split_heads,
    stage_ends,
    stage_maps,
    torch_default_,
    zeros_,
)
from passl.modeling.layers.patch_embed import Size
from passl.modeling.layers.relative_positions import (
    CLASS_ROWS,
    class_token_index,
    look_up,
    resized_table,
)
from passl.utils.errors import PasslError

_TABLE = "relative_position_bias_table"


class BiasedLinear(Linear):
    """A linear map whose bias is given along: parts of it are parameters, others are zeros.

    It is a layer that is called, so that its multiply-adds are counted.

    Shape:
        input: ``[..., in_features]``, and the bias ``[out_features]``.
        output: ``[..., out_features]``.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias_attr=False)

    def forward(self, x, bias):
        return functional.linear(x, self.weight, bias)


class BeitAttention(nn.Layer):
    """Attention, with relative positions; queries and values have a bias, keys none.

    Args:
        channels: C; a multiple of ``heads``.
        heads: H.
        index: int64 ``[1 + S, 1 + S]``, the row of the table for each pair of tokens; one for all
            blocks. None: without relative positions.
        rows: of the table.
        dropout: probability of zeroing an element after the projection.
        attention_dropout: probability of zeroing an attention weight.

    Shape:
        input and output: ``[N, 1 + S, C]``.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        index: Optional[paddle.Tensor],
        rows: int,
        dropout: float,
        attention_dropout: float,
    ):
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.qkv = BiasedLinear(channels, 3 * channels)
        self.q_bias = self.create_parameter([channels], is_bias=True)
        self.v_bias = self.create_parameter([channels], is_bias=True)
        if index is not None:
            self.relative_position_bias_table = self.create_parameter([rows, heads])
            self.register_buffer("relative_position_index", index, persistable=False)
        self.relative = index is not None
        self.proj = Linear(channels, channels)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.attention_dropout = attention_dropout

    def forward(self, x):
        bias = paddle.concat([self.q_bias, paddle.zeros_like(self.q_bias), self.v_bias])
        q, k, v = split_heads(self.qkv(x, bias), self.heads, 3)
        positions = None
        if self.relative:
            positions = look_up(self.relative_position_bias_table, self.relative_position_index)
        dropout = self.attention_dropout if self.training else 0.0
        x = attend(q, k, v, self.scale, positions, dropout)
        return self.drop(self.proj(join_heads(x)))


class BeitBlock(nn.Layer):
    """Attention, then an MLP, each after a norm, scaled by channel and with a residual.

    Args:
        attention: of this block.
        channels: C.
        hidden: width of the MLP.
        layer_scale_init: what the scales of both branches start at; 0: there are none.
        dropout: probability of zeroing an element at the end of the MLP.
        drop_path: of both branches.

    Shape:
        input and output: ``[N, 1 + S, C]``.
    """

    recompute = True  # as one piece, where activations are to be computed twice

    def __init__(
        self,
        attention: BeitAttention,
        channels: int,
        hidden: int,
        layer_scale_init: float,
        dropout: float,
        drop_path: DropPath,
    ):
        super().__init__()
        self.norm1 = LayerNorm(channels, epsilon=1e-6)
        self.attn = attention
        self.norm2 = LayerNorm(channels, epsilon=1e-6)
        self.mlp = Mlp(channels, hidden)
        # At the end alone: the authors leave out the dropout between the two maps.
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.gamma_1 = self.gamma_2 = None
        if layer_scale_init:
            start = nn.initializer.Constant(layer_scale_init)
            self.gamma_1 = self.create_parameter([channels], default_initializer=start)
            self.gamma_2 = self.create_parameter([channels], default_initializer=start)
        self.drop_path = drop_path

    def forward(self, x):
        x = x + self.drop_path(_scaled(self.attn(self.norm1(x)), self.gamma_1))
        return x + self.drop_path(_scaled(self.drop(self.mlp(self.norm2(x))), self.gamma_2))


def _scaled(x, gamma):
    return x if gamma is None else functional.scale(x, gamma)


_BLOCK = "blocks.{i}"
_NAMES = {
    "backbone.stem.proj": "patch_embed.proj",
    "backbone.cls_token[1, 1, :]": "cls_token[1, 1, :]",
    "backbone.pos_embed[1, :, :]": "pos_embed[1, :, :]",
    **{
        f"backbone.{name}": name
        for name in (
            f"{_BLOCK}.norm1",
            f"{_BLOCK}.attn.qkv",
            f"{_BLOCK}.attn.q_bias[:]",
            f"{_BLOCK}.attn.v_bias[:]",
            f"{_BLOCK}.attn.relative_position_bias_table[:, :]",
            f"{_BLOCK}.attn.proj",
            f"{_BLOCK}.gamma_1[:]",
            f"{_BLOCK}.gamma_2[:]",
            f"{_BLOCK}.norm2",
            f"{_BLOCK}.mlp.fc1",
            f"{_BLOCK}.mlp.fc2",
            "fc_norm",
        )
    },
    # Networks that are only pre-trained have one table for all blocks.
    "backbone.blocks.*.attn.relative_position_bias_table[:, :]": (
        "rel_pos_bias.relative_position_bias_table[:, :]"
    ),
    "head.fc": "head",
}
# Indices, which follow from the sizes; and what pre-training alone needs.
_NO_WEIGHTS = (
    f"{_BLOCK}.attn.relative_position_index",
    "rel_pos_bias.relative_position_index",
    *("mask_token", "norm.weight", "norm.bias", "lm_head.weight", "lm_head.bias"),
)
_OPTIONS = {"no_weights": _NO_WEIGHTS, "may_lack": ("backbone.fc_norm",)}


@BACKBONES.register
class Beit(nn.Layer):
    """BEiT without its classification layer.

    Args:
        img_size: height and width of the images in pixels; one number for a square. A network
            serves one image size; released positions for another one are resized.
        patch_size: height and width of a patch; divides ``img_size``.
        in_channels: channels of the images.
        embed_dim: C.
        num_blocks: layers.
        num_heads: H; divides C.
        mlp_ratio: width of the MLPs, in units of C.
        layer_scale_init: what the scales of the residual branches start at; 0: without them.
        positions: ``relative``, a table for each block, or ``absolute``, learned and added to the
            tokens, as what was only pre-trained on ImageNet-1k has, without scales
            (``beit_base_patch16_224_pt1k_800ep``).
        drop_rate: dropout after the tokens, the attention's projection and the MLPs.
        attention_drop_rate: dropout of the attention weights.
        drop_path_rate: stochastic depth of the last block, rising from 0 at the first.
        stage_blocks: after which blocks ``forward_stages`` takes its maps, counted from 1; by
            default after a quarter, half, three quarters and all of them.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, C]``, the mean of the patches, normalised.

    Attributes:
        num_features: C.
        stage_channels: C for each map.
        stage_strides: the patch's height for each map.

    Raises:
        PasslError: sizes that do not fit together, or an image of another size.
    """

    # Authors, timm (beit.py) and ports have the same names.
    released_names = {
        "unilm": ("torch", _NAMES, {**_OPTIONS, "key": ("model", "module")}),
        "timm": ("torch", _NAMES, _OPTIONS),
        # PASSL 1.0 and 1.1, passl/modeling/backbones/beit.py
        "passl_v1": (
            "paddle",
            {
                here: "head.fc_cls" if here == "head.fc" else f"backbone.{there}"
                for here, there in _NAMES.items()
            },
            {**_OPTIONS, "no_weights": tuple(f"backbone.{name}" for name in _NO_WEIGHTS)},
        ),
        "paddlevit": ("paddle", _NAMES, _OPTIONS),  # BR-IDL/PaddleViT, image_classification/BEiT
    }

    def __init__(
        self,
        img_size: Size = 224,
        patch_size: Size = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        num_blocks: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        layer_scale_init: float = 0.1,
        positions: str = "relative",
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
        check_heads(embed_dim, num_heads)
        check_drop_rate(drop_rate)
        check_drop_rate(attention_drop_rate)
        if positions not in ("relative", "absolute"):
            raise PasslError(f"positions is 'relative' or 'absolute', not '{positions}'")
        self.num_features = embed_dim
        self.stem = PatchEmbed(img_size, patch_size, in_channels, embed_dim)
        self.cls_token = self.create_parameter([1, 1, embed_dim])
        self.drop = nn.Dropout(drop_rate) if drop_rate else nn.Identity()
        height, width = self.stem.grid
        self.pos_embed = index = None
        if positions == "absolute":
            self.pos_embed = self.create_parameter([1, 1 + height * width, embed_dim])
        else:
            index = paddle.to_tensor(class_token_index(height, width))
        rows = (2 * height - 1) * (2 * width - 1) + CLASS_ROWS
        self.blocks = nn.LayerList(
            [
                BeitBlock(
                    BeitAttention(
                        embed_dim, num_heads, index, rows, drop_rate, attention_drop_rate
                    ),
                    embed_dim,
                    hidden,
                    layer_scale_init,
                    drop_rate,
                    DropPath(rate),
                )
                for rate in drop_path_rates(drop_path_rate, num_blocks)
            ]
        )
        self.fc_norm = LayerNorm(embed_dim, epsilon=1e-6)
        self._ends = stage_ends(stage_blocks, num_blocks)
        self.stage_channels: List[int] = [embed_dim] * len(self._ends)
        self.stage_strides: List[int] = [self.stem.patch_size[0]] * len(self._ends)
        self._initialize()

    def _initialize(self) -> None:
        # _init_weights and fix_init_weight of the authors' code.
        torch_default_(self.stem.proj)
        normal_(self.cls_token, std=0.02)
        if self.pos_embed is not None:
            normal_(self.pos_embed, std=0.02)
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    zeros_(layer.bias)
        for n, block in enumerate(self.blocks, start=1):
            for layer in (block.attn.proj, block.mlp.fc2):
                normal_(layer.weight, std=0.02 / math.sqrt(2.0 * n))
            zeros_(block.attn.q_bias)
            zeros_(block.attn.v_bias)
            if block.attn.relative:
                zeros_(block.attn.relative_position_bias_table)

    def adapt_weight(
        self, name: str, shape: Sequence[int], publisher: str
    ) -> Optional[Tuple[Callable[[np.ndarray], np.ndarray], str]]:
        """Says how released positions for another image size become this network's.

        Args:
            name: a parameter of this network.
            shape: its shape in the file, in Paddle's layout, different from that here.
            publisher: whose names the file uses. Of relative positions timm interpolates linearly,
                the authors by cubic splines, both on a grid that is denser near the centre;
                absolute ones are an image, which timm resizes with antialiasing, the authors
                without.

        Returns:
            A function from the old array to the new, and a sentence that says what it does; None
            where the size of the images does not explain the difference.

        Raises:
            PasslError: absolute positions that are of no square image.
        """
        grid, timm = self.stem.grid, publisher == "timm"
        if name.endswith(_TABLE) and tuple(shape)[1:] == (self.blocks[0].attn.heads,):
            way = "geometric_linear" if timm else "geometric_cubic"
            what = "tables of relative positions"

            def resize(array: np.ndarray) -> np.ndarray:
                return resized_table(array, grid, way, CLASS_ROWS)

        elif name == "pos_embed" and len(shape) == 3 and shape[2] == self.num_features:
            way, what = "bicubic_antialias" if timm else "bicubic", "positions"
            side = math.isqrt(max(shape[1] - 1, 0))
            if side < 1 or side * side != shape[1] - 1:
                raise self.stem.other_tokens(shape[1] - 1, "BEiT")

            def resize(array: np.ndarray) -> np.ndarray:
                return resized_positions(array, 1, grid, way)

        else:
            return None
        words = way.replace("_", ", ")
        return resize, f"{what} resized for {grid[0]}×{grid[1]} patches ({words})"

    @property
    def parameter_depths(self) -> Dict[str, int]:
        """How deep each parameter lies, from 0, for layer-wise learning rates: as the authors say.

        Patches, class token and absolute positions are the first layer, and each block is one. The
        norm at the end lies with the head, above all that stands here, so it does not.
        """
        depths = column_depths(self, ("stem", "cls_token", "pos_embed"))
        return {name: depth for name, depth in depths.items() if not name.startswith("fc_norm.")}

    @property
    def no_weight_decay(self) -> FrozenSet[str]:
        """Parameters that never decay besides biases, norms and scales: token, absolute positions.

        Tables of relative positions do decay, as by default in the authors' code.
        """
        return frozenset(["cls_token"] if self.pos_embed is None else ["cls_token", "pos_embed"])

    def pictured_weights(self) -> Dict[str, Tuple[str, np.ndarray]]:
        """Returns what can be drawn: name -> (kind, weights).

        ``stem``: the patch embedding, ``[C, in_channels, patch, patch]``; ``relative_positions``:
        for each block that has a table a map for each head, ``[H, 2·height - 1, 2·width - 1]`` in
        patches.
        """
        pictured = {"stem": ("stem", self.stem.proj.weight.numpy())}
        sides = [2 * length - 1 for length in self.stem.grid]
        for i, block in enumerate(self.blocks):
            if not block.attn.relative:
                continue
            table = block.attn.relative_position_bias_table.numpy()[:-CLASS_ROWS]
            pictured[f"relative_positions_{i:02d}"] = (
                "relative_positions",
                table.T.reshape(-1, *sides),
            )
        return pictured

    @property
    def attended(self) -> Tuple[int, Tuple[int, int], int]:
        """What attention goes over: tokens before the patches, the patches' grid, their pixels."""
        return 1, self.stem.grid, self.stem.patch_size[0]

    def _embedded(self, x):
        """Returns the first block's input, ``[N, 1 + S, C]``."""
        x = self.stem(x)
        token = self.cls_token.astype(x.dtype).expand([x.shape[0], -1, -1])
        x = paddle.concat([token, x], axis=1)
        return self.drop(x if self.pos_embed is None else x + self.pos_embed)

    def forward_features(self, x):
        """Returns the tokens as the last block leaves them, ``[N, 1 + S, C]``."""
        x = self._embedded(x)
        for block in self.blocks:
            x = block(x)
        return x

    def forward_stages(self, x) -> List[paddle.Tensor]:
        """Returns maps of the patches after some of the blocks, ``[N, C, H_p, W_p]`` each."""
        tokens = self._embedded(x)
        return stage_maps(self.blocks, tokens, self._ends, self.stem.grid, 1)

    def forward(self, x):
        return self.fc_norm(self.forward_features(x)[:, 1:].mean(axis=1))


# Section 3.1 of the paper: name, size, C, blocks, heads, first value of the scales.
for _name, _size, _c, _blocks, _heads, _scale in (
    ("beit_b16_224", 224, 768, 12, 12, 0.1),
    ("beit_b16_384", 384, 768, 12, 12, 0.1),
    ("beit_l16_224", 224, 1024, 24, 16, 1e-5),
    ("beit_l16_384", 384, 1024, 24, 16, 1e-5),
    ("beit_l16_512", 512, 1024, 24, 16, 1e-5),
):
    BACKBONES.register_variant(
        _name,
        Beit,
        img_size=_size,
        patch_size=16,
        embed_dim=_c,
        num_blocks=_blocks,
        num_heads=_heads,
        layer_scale_init=_scale,
    )
