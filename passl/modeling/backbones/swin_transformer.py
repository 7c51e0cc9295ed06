"""Swin Transformer.

Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo: "Swin Transformer: Hierarchical Vision Transformer using
Shifted Windows", arXiv 2103.14030; the authors' code is github.com/microsoft/Swin-Transformer,
models/swin_transformer.py.

Legend for shapes: N images, H and W the height and width of a feature map, C its channels, w the
side of a window, S = w² the tokens in it, B = H·W / S windows of a map.
"""

from __future__ import annotations

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
    drop_path_rates,
    join_heads,
    normal_,
    split_heads,
    torch_default_,
    zeros_,
)
from passl.modeling.layers.functional import channels_first, swap_axes
from passl.modeling.layers.patch_embed import Size
from passl.modeling.layers.relative_positions import look_up, resized_table, window_index
from passl.utils.errors import PasslError

# Added to the attention's scores between tokens that are neighbours in a shifted window alone.
_APART = -100.0
_TABLE = "relative_position_bias_table"


def shifted_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """Returns what keeps parts of a shifted map apart that were at opposite borders (figure 4).

    Returns:
        float32 ``[B, S, S]``: 0 between tokens of one part, -100 between those of different parts.
    """
    part = np.zeros((height, width), np.int64)
    for axis, size in ((0, height), (1, width)):
        place = np.arange(size)
        strip = (place >= size - window).astype(int) + (place >= size - shift)
        part += (3 * strip[:, None]) if axis == 0 else strip[None, :]
    parts = part.reshape(height // window, window, width // window, window)
    parts = parts.transpose(0, 2, 1, 3).reshape(-1, window * window)
    return np.where(parts[:, :, None] != parts[:, None, :], _APART, 0.0).astype(np.float32)


class WindowAttention(nn.Layer):
    """Attention inside of windows, with relative positions (equation 4).

    Args:
        channels: C; a multiple of ``heads``.
        heads: of the attention.
        window: w.
        qkv_bias: whether the map to queries, keys and values has a bias.
        dropout: probability of zeroing an element after the projection.
        attention_dropout: probability of zeroing an attention weight.

    Shape:
        input and output: ``[N, B, S, C]``; mask: ``[B, 1, S, S]``.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        qkv_bias: bool,
        dropout: float,
        attention_dropout: float,
    ):
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.window = window
        self.qkv = Linear(channels, 3 * channels, bias_attr=None if qkv_bias else False)
        self.proj = Linear(channels, channels)
        self.relative_position_bias_table = self.create_parameter([(2 * window - 1) ** 2, heads])
        index = paddle.to_tensor(window_index(window, window))
        self.register_buffer("relative_position_index", index, persistable=False)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.attention_dropout = attention_dropout

    def forward(self, x, mask=None):
        windows, tokens, channels = x.shape[1:]
        bias = look_up(self.relative_position_bias_table, self.relative_position_index)
        if mask is not None:
            bias = bias + mask.astype(bias.dtype)
        qkv = self.qkv(x).reshape([-1, tokens, 3 * channels])
        q, k, v = (
            part.reshape([-1, windows, self.heads, tokens, channels // self.heads])
            for part in split_heads(qkv, self.heads, 3)
        )
        dropout = self.attention_dropout if self.training else 0.0
        x = attend(q, k, v, self.scale, bias, dropout)
        x = join_heads(x.flatten(0, 1)).reshape([-1, windows, tokens, channels])
        return self.drop(self.proj(x))


class SwinBlock(nn.Layer):
    """Attention in windows, shifted in every other block, then an MLP (equation 3).

    Where a side of the map is no longer than a window, the window has that side and nothing is
    shifted, as in the authors' code (timm still shifts along the other side of such a map).

    Args:
        channels, heads: of the stage.
        size: height and width of the map.
        window: w, at most the shorter side of the map.
        shift: by how many tokens the windows are moved; 0 for none.
        mask: float32 ``[B, 1, S, S]``, where they are.

    Shape:
        input and output: ``[N, H, W, C]``.
    """

    recompute = True  # as one piece, where activations are to be computed twice

    def __init__(
        self,
        channels: int,
        heads: int,
        size: Tuple[int, int],
        window: int,
        shift: int,
        mask: Optional[paddle.Tensor],
        hidden: int,
        qkv_bias: bool,
        dropout: float,
        attention_dropout: float,
        drop_path: DropPath,
    ):
        super().__init__()
        self.size, self.window, self.shift = size, window, shift
        self.norm1 = LayerNorm(channels, epsilon=1e-5)
        self.attn = WindowAttention(channels, heads, window, qkv_bias, dropout, attention_dropout)
        self.norm2 = LayerNorm(channels, epsilon=1e-5)
        self.mlp = Mlp(channels, hidden, dropout=dropout)
        self.drop_path = drop_path
        self.register_buffer("mask", mask, persistable=False)

    def forward(self, x):
        height, width, w = *self.size, self.window
        rows, columns, channels = height // w, width // w, x.shape[-1]
        y = self.norm1(x)
        if self.shift:
            y = paddle.roll(y, (-self.shift, -self.shift), axis=(1, 2))
        y = swap_axes(y.reshape([-1, rows, w, columns, w, channels]), 2, 3)
        y = self.attn(y.reshape([-1, rows * columns, w * w, channels]), self.mask)
        y = swap_axes(y.reshape([-1, rows, columns, w, w, channels]), 2, 3)
        y = y.reshape([-1, height, width, channels])
        if self.shift:
            y = paddle.roll(y, (self.shift, self.shift), axis=(1, 2))
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Layer):
    """Four neighbouring tokens become one of twice the channels (section 3.1).

    Their channels lie one after the other: of the pixels (0, 0), (1, 0), (0, 1) and (1, 1), row
    before column.

    Shape:
        input: ``[N, H, W, C]``; output: ``[N, H / 2, W / 2, 2·C]``.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = LayerNorm(4 * channels, epsilon=1e-5)
        self.reduction = Linear(4 * channels, 2 * channels, bias_attr=False)

    def forward(self, x):
        height, width, channels = x.shape[1:]
        x = x.reshape([-1, height // 2, 2, width // 2, 2, channels]).transpose([0, 1, 3, 4, 2, 5])
        return self.reduction(self.norm(x.reshape([-1, height // 2, width // 2, 4 * channels])))


_LAYERS = (
    "backbone.stem.proj",
    "backbone.stem_norm",
    "backbone.stages.{i}.{j}.norm1",
    "backbone.stages.{i}.{j}.attn.qkv",
    "backbone.stages.{i}.{j}.attn.relative_position_bias_table[:, :]",
    "backbone.stages.{i}.{j}.attn.proj",
    "backbone.stages.{i}.{j}.norm2",
    "backbone.stages.{i}.{j}.mlp.fc1",
    "backbone.stages.{i}.{j}.mlp.fc2",
    "backbone.merging.{i}.norm",
    "backbone.merging.{i}.reduction",
    "backbone.norm",
    "head.fc",
)


def _named(
    stage: str = "layers.{i}",
    merging: str = "layers.{i}.downsample",
    stem: Tuple[str, str] = ("patch_embed.proj", "patch_embed.norm"),
    attention: str = "attn",
    mlp: Tuple[str, str] = ("mlp.fc1", "mlp.fc2"),
    order: str = "",
    end: Tuple[str, str] = ("norm", "head"),
) -> Tuple[str, ...]:
    """Returns a publisher's names in the order above; as Microsoft's but for what is given."""
    block = f"{stage}.blocks.{{j}}"
    return (
        *stem,
        f"{block}.norm1",
        f"{block}.{attention}.qkv",
        f"{block}.{attention}.relative_position_bias_table[:, :]",
        f"{block}.{attention}.proj",
        f"{block}.norm2",
        f"{block}.{mlp[0]}",
        f"{block}.{mlp[1]}",
        f"{merging}.norm{order}",
        f"{merging}.reduction{order}",
        *end,
    )


def _computed(stage: str = "layers.{i}", attention: str = "attn") -> Dict[str, Tuple[str, ...]]:
    """Returns names of what files hold and the sizes tell: indices and masks."""
    block = f"{stage}.blocks.{{j}}"
    return {
        "no_weights": (f"{block}.{attention}.relative_position_index", f"{block}.attn_mask"),
    }


_RELEASED_NAMES: Dict[str, tuple] = {
    "microsoft": ("torch", _named(), {**_computed(), "key": "model"}),
    # timm/models/swin_transformer.py: a stage begins with the step down to it.
    "timm": (
        "torch",
        _named(merging="layers.{i+1}.downsample", end=("norm", "head.fc")),
        _computed(),
    ),
    # mmpretrain/models/backbones/swin_transformer.py, which takes patches apart by nn.Unfold
    "mmpretrain": (
        "torch",
        _named(
            stage="backbone.stages.{i}",
            merging="backbone.stages.{i}.downsample",
            stem=("backbone.patch_embed.projection", "backbone.patch_embed.norm"),
            attention="attn.w_msa",
            mlp=("ffn.layers.0.0", "ffn.layers.1"),
            order="|unfold",
            end=("backbone.norm3", "head.fc"),
        ),
        _computed("backbone.stages.{i}", "attn.w_msa"),
    ),
    # PASSL 1.0 and 1.1, passl/modeling/backbones/swin_transformer.py
    "passl_v1": (
        "paddle",
        (*(f"backbone.{name}" for name in _named()[:-1]), "head.fc_cls"),
        _computed("backbone.layers.{i}"),
    ),
    # ppcls/arch/backbone/legendary_models/swin_transformer.py
    "paddleclas": ("paddle", _named(), _computed()),
    "paddlevit": (  # BR-IDL/PaddleViT, image_classification/SwinTransformer
        "paddle",
        _named(
            stage="stages.{i}",
            merging="stages.{i}.downsample",
            stem=("patch_embedding.patch_embed", "patch_embedding.norm"),
            end=("norm", "fc"),
        ),
        _computed("stages.{i}"),
    ),
}


@BACKBONES.register
class SwinTransformer(nn.Layer):
    """Swin Transformer without its classification layer.

    Stages at a 4th, 8th, 16th and 32nd of the image's size, for patches of 4 pixels.

    Args:
        img_size: height and width of the images in pixels; one number for a square. A network
            serves one image size; the weights serve all at which the windows are the same.
        patch_size: height and width of a patch.
        in_channels: channels of the images.
        embed_dim: C of the first stage; each later one has twice that of the one before.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        window_size: w; a stage whose map is smaller has windows of its shorter side.
        mlp_ratio: width of the MLPs, in units of C.
        qkv_bias: whether the map to queries, keys and values has a bias.
        drop_rate: dropout after the patches, the attention's projection and each map of the MLPs.
        attention_drop_rate: dropout of the attention weights.
        drop_path_rate: stochastic depth of the last block, rising from 0 at the first.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, num_features]``.

    Attributes:
        num_features: C of the last stage.
        stage_channels: C of each stage.
        stage_strides: pixels of the image that one step on a stage's map is.

    Raises:
        PasslError: lists that do not fit together, maps that windows do not divide, or an image of
            another size.
    """

    released_names = {
        publisher: (convention, dict(zip(_LAYERS, names)), *options)
        for publisher, (convention, names, *options) in _RELEASED_NAMES.items()
    }

    def __init__(
        self,
        img_size: Size = 224,
        patch_size: Size = 4,
        in_channels: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        if not len(depths) == len(num_heads) >= 1:
            raise PasslError(
                "depths and num_heads have a number for each stage, so as many as one another, not "
                f"{len(depths)} and {len(num_heads)}"
            )
        check_sizes(
            in_channels=in_channels,
            embed_dim=embed_dim,
            depths=depths,
            window_size=window_size,
            mlp_ratio=int(embed_dim * mlp_ratio),
        )
        check_drop_rate(drop_rate)
        check_drop_rate(attention_drop_rate)
        self.stem = PatchEmbed(img_size, patch_size, in_channels, embed_dim)
        self.stem_norm = LayerNorm(embed_dim, epsilon=1e-5)
        self.pos_drop = nn.Dropout(drop_rate) if drop_rate else nn.Identity()
        self.stage_channels: List[int] = [embed_dim * 2**i for i in range(len(depths))]
        self.stage_strides: List[int] = [self.stem.patch_size[0] * 2**i for i in range(len(depths))]
        self.num_features = self.stage_channels[-1]
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.stages, self.merging = nn.LayerList(), nn.LayerList()
        for i, (depth, heads, channels) in enumerate(zip(depths, num_heads, self.stage_channels)):
            check_heads(channels, heads)
            size = self._map_size(i)
            window = min(window_size, *size)
            if size[0] % window or size[1] % window:
                raise PasslError(
                    f"windows of {window}×{window} do not divide the map of {size[0]}×{size[1]} "
                    f"that stage {i + 1} has for images of {self.stem.img_size[0]}×"
                    f"{self.stem.img_size[1]}; take another img_size, a multiple of "
                    f"{window_size * self.stage_strides[-1]}, or another window_size"
                )
            shift, mask = 0, None
            if window < min(size):
                shift = window // 2
                mask = paddle.to_tensor(shifted_mask(*size, window, shift)[:, None])
            self.stages.append(
                nn.LayerList(
                    [
                        SwinBlock(
                            channels,
                            heads,
                            size,
                            window,
                            shift if j % 2 else 0,
                            mask if j % 2 else None,
                            int(channels * mlp_ratio),
                            qkv_bias,
                            drop_rate,
                            attention_drop_rate,
                            DropPath(next(rates)),
                        )
                        for j in range(depth)
                    ]
                )
            )
            if i + 1 < len(depths):
                self.merging.append(PatchMerging(channels))
        self.norm = LayerNorm(self.num_features, epsilon=1e-5)
        self._initialize()

    def _map_size(self, stage: int) -> Tuple[int, int]:
        height, width = self.stem.grid
        step = 2**stage
        if height % step or width % step:
            raise PasslError(
                f"images of {self.stem.img_size[0]}×{self.stem.img_size[1]} cannot be halved "
                f"{stage} times after patches of {self.stem.patch_size[0]}; take another img_size, "
                f"a multiple of {self.stage_strides[-1]}"
            )
        return height // step, width // step

    def _initialize(self) -> None:
        # _init_weights of the authors' code; it leaves the convolution as torch has it.
        torch_default_(self.stem.proj)
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    zeros_(layer.bias)
            elif isinstance(layer, WindowAttention):
                normal_(layer.relative_position_bias_table, std=0.02)

    def adapt_weight(
        self, name: str, shape: Sequence[int], publisher: str
    ) -> Optional[Tuple[Callable[[np.ndarray], np.ndarray], str]]:
        """Says how a released table of relative positions becomes one for windows of another size.

        Args:
            name: a parameter of this network.
            shape: its shape in the file, in Paddle's layout, different from that here.
            publisher: whose names the file uses; each has a way of their own.

        Returns:
            A function from the old array to the new, and a sentence that says what it does; None
            where the windows do not explain the difference.
        """
        own = dict(self.named_parameters()).get(name)
        if own is None or not name.endswith(_TABLE) or tuple(shape)[1:] != tuple(own.shape)[1:]:
            return None
        side = (round(own.shape[0] ** 0.5) + 1) // 2
        way = "geometric_linear" if publisher == "timm" else "bicubic"
        words = way.replace("_", ", ")
        return (
            lambda table: resized_table(table, (side, side), way),
            f"tables of relative positions resized for this network's windows ({words})",
        )

    @property
    def parameter_depths(self) -> Dict[str, int]:
        """How deep each parameter lies, from 0, for layer-wise learning rates.

        The patch embedding is the first layer, each block one; the step down after a stage lies as
        deep as the stage's last block. The norm at the end lies with the head, above all that
        stands here, so it does not.
        """
        starts = np.cumsum([0, *(len(stage) for stage in self.stages)])

        def depth(name: str) -> int:
            part, *rest = name.split(".")
            if part == "stages":
                return int(starts[int(rest[0])]) + int(rest[1]) + 1
            if part == "merging":
                return int(starts[int(rest[0]) + 1])
            return 0

        names = (name for name, _ in self.named_parameters())
        return {name: depth(name) for name in names if not name.startswith("norm.")}

    @property
    def no_weight_decay(self) -> FrozenSet[str]:
        """Parameters that never decay besides biases and norms: tables of relative positions."""
        return frozenset(name for name, _ in self.named_parameters() if name.endswith(_TABLE))

    def pictured_weights(self) -> Dict[str, Tuple[str, np.ndarray]]:
        """Returns what can be drawn: name -> (kind, weights).

        ``stem``: the patch embedding, ``[C, in_channels, patch, patch]``; ``relative_positions``:
        for each block a map for each head, ``[heads, 2·w - 1, 2·w - 1]``.
        """
        pictured = {"stem": ("stem", self.stem.proj.weight.numpy())}
        for i, stage in enumerate(self.stages):
            for j, block in enumerate(stage):
                side = 2 * block.window - 1
                table = block.attn.relative_position_bias_table.numpy()
                maps = table.T.reshape(-1, side, side)
                pictured[f"relative_positions_{i}_{j:02d}"] = ("relative_positions", maps)
        return pictured

    def _stages(self, x) -> List[paddle.Tensor]:
        """Returns what each stage gives, ``[N, H_i, W_i, C_i]``."""
        x = self.pos_drop(self.stem_norm(self.stem(x)))
        x = x.reshape([-1, *self.stem.grid, x.shape[-1]])
        outputs = []
        for i, stage in enumerate(self.stages):
            for block in stage:
                x = block(x)
            outputs.append(x)
            if i < len(self.merging):
                x = self.merging[i](x)
        return outputs

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


# Section 3.3 of the paper, and the larger windows for 384 pixels: name, size, C, blocks, heads, w.
for _name, _size, _c, _depths, _heads, _w in (
    ("swin_t_224", 224, 96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    ("swin_s_224", 224, 96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
    ("swin_b_224", 224, 128, (2, 2, 18, 2), (4, 8, 16, 32), 7),
    ("swin_b_384", 384, 128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    ("swin_l_224", 224, 192, (2, 2, 18, 2), (6, 12, 24, 48), 7),
    ("swin_l_384", 384, 192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
):
    BACKBONES.register_variant(
        _name,
        SwinTransformer,
        img_size=_size,
        embed_dim=_c,
        depths=_depths,
        num_heads=_heads,
        window_size=_w,
    )
