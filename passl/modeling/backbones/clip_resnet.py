"""The ResNet of CLIP, which ends in attention.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv
2103.00020, section 2.4; the authors' code is github.com/openai/CLIP, clip/model.py. The stem of
three convolutions is ResNet-D's (He et al., arXiv 1812.01187); averages before a step down are
Zhang's (arXiv 1904.11486).

Legend for shapes: N images, H and W the height and width of a feature map, C its channels.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from passl.modeling.backbones.registry import BACKBONES
from passl.modeling.layers import (
    ConvNorm,
    Linear,
    attend,
    check_heads,
    check_image_size,
    check_input,
    check_sizes,
    join_heads,
    normal_,
    resized_positions,
    split_heads,
    to_pair,
    torch_default_,
    zeros_,
)
from passl.modeling.layers.depths import staged_depths
from passl.modeling.layers.patch_embed import Size
from passl.modeling.texts.released import NO_WEIGHTS, text_names
from passl.utils.errors import PasslError

_BLOCK, _OPENAI_BLOCK = "backbone.stages.{i}.{j}", "visual.layer{i+1}.{j}"
_OPENAI = {
    "backbone.stem.{i}.conv": "visual.conv{i+1}",
    "backbone.stem.{i}.norm": "visual.bn{i+1}",
    f"{_BLOCK}.layers.{{k}}.conv": f"{_OPENAI_BLOCK}.conv{{k+1}}",
    f"{_BLOCK}.layers.{{k}}.norm": f"{_OPENAI_BLOCK}.bn{{k+1}}",
    f"{_BLOCK}.shortcut.conv": f"{_OPENAI_BLOCK}.downsample.0",
    f"{_BLOCK}.shortcut.norm": f"{_OPENAI_BLOCK}.downsample.1",
    "backbone.pool.pos_embed[1, :, :]": "visual.attnpool.positional_embedding[:, :]",
    "backbone.pool.q": "visual.attnpool.q_proj",
    "backbone.pool.k": "visual.attnpool.k_proj",
    "backbone.pool.v": "visual.attnpool.v_proj",
    "backbone.pool.proj": "visual.attnpool.c_proj",
}

# timm/models/byobnet.py
_TIMM_BLOCK = "stages.{i}.{j}"
_TIMM = {
    "backbone.stem.{i}.conv": "stem.conv{i+1}.conv",
    "backbone.stem.{i}.norm": "stem.conv{i+1}.bn",
    **{
        f"{_BLOCK}.layers.{k}.{here}": f"{_TIMM_BLOCK}.conv{k + 1}_{size}.{there}"
        for k, size in enumerate(("1x1", "kxk", "1x1"))
        for here, there in (("conv", "conv"), ("norm", "bn"))
    },
    f"{_BLOCK}.shortcut.conv": f"{_TIMM_BLOCK}.shortcut.conv.conv",
    f"{_BLOCK}.shortcut.norm": f"{_TIMM_BLOCK}.shortcut.conv.bn",
    "backbone.pool.pos_embed[1, :, :]": "head.pos_embed[:, :]",
    "backbone.pool.q": "head.q",
    "backbone.pool.k": "head.k",
    "backbone.pool.v": "head.v",
    "backbone.pool.proj": "head.proj",
}
# paddlenlp/transformers/clip/modeling.py: OpenAI's names under another one, positions as an
# embedding
_PADDLENLP = {
    here: there.replace("visual.", "vision_model.").replace(
        "positional_embedding[", "positional_embedding.weight["
    )
    for here, there in _OPENAI.items()
}

_EXPANSION = 4
_STRIDE = 32  # pixels that a step on the last map is
_HEAD_WIDTH = 64


class AveragedBottleneck(nn.Layer):
    """A 1×1, a 3×3 and a 1×1 convolution, to which the input is added.

    All have stride 1; the step down is an average, after the 3×3 and before the shortcut's 1×1.

    Shape:
        input: ``[N, in_channels, H, W]``;
        output: ``[N, 4·width, H / stride, W / stride]``.
    """

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        channels = width * _EXPANSION
        self.stride = stride
        self.layers = nn.LayerList(
            [
                ConvNorm(in_channels, width, 1, 1, "torch"),
                ConvNorm(width, width, 3, 1, "torch"),
                ConvNorm(width, channels, 1, 1, "torch"),
            ]
        )
        self.shortcut = None
        if stride > 1 or in_channels != channels:
            self.shortcut = ConvNorm(in_channels, channels, 1, 1, "torch")

    def forward(self, x):
        branch = F.relu(self.layers[0](x))
        branch = F.relu(self.layers[1](branch))
        branch = self.layers[2](self._step(branch))
        shortcut = x if self.shortcut is None else self.shortcut(self._step(x))
        return F.relu(branch + shortcut)

    def _step(self, x):
        return F.avg_pool2d(x, self.stride) if self.stride > 1 else x


class AttentionPool(nn.Layer):
    """Attention of the mean of a map to the mean and to every place of it, as pooling.

    Args:
        grid: height and width of the map.
        channels: C; a multiple of ``heads``.
        heads: of the attention.
        embed_dim: size of what it gives.

    Shape:
        input: ``[N, C, H, W]``; output: ``[N, embed_dim]``.
    """

    def __init__(self, grid: Tuple[int, int], channels: int, heads: int, embed_dim: int):
        super().__init__()
        check_heads(channels, heads)
        self.heads, self.grid = heads, grid
        self.pos_embed = self.create_parameter([1, 1 + grid[0] * grid[1], channels])
        self.q = Linear(channels, channels)
        self.k = Linear(channels, channels)
        self.v = Linear(channels, channels)
        self.proj = Linear(channels, embed_dim)
        std = channels**-0.5
        normal_(self.pos_embed, std=std)
        for layer in (self.q, self.k, self.v, self.proj):
            torch_default_(layer)  # for the bias
            normal_(layer.weight, std=std)

    def forward(self, x):
        tokens = x.flatten(2).transpose([0, 2, 1])
        tokens = paddle.concat([tokens.mean(axis=1, keepdim=True), tokens], axis=1)
        tokens = tokens + self.pos_embed.astype(tokens.dtype)
        (q,) = split_heads(self.q(tokens[:, :1]), self.heads)
        (k,) = split_heads(self.k(tokens), self.heads)
        (v,) = split_heads(self.v(tokens), self.heads)
        return self.proj(join_heads(attend(q, k, v, q.shape[-1] ** -0.5))[:, 0])


@BACKBONES.register
class CLIPResNet(nn.Layer):
    """CLIP's image tower of convolutions; its features are already what texts are compared with.

    Args:
        img_size: height and width of the images in pixels, multiples of 32; one number for a
            square. The attention's positions belong to one size; released weights for another one
            are resized.
        in_channels: channels of the images.
        blocks: residual blocks of each of the four stages.
        width: of the stem and of the first stage's blocks.
        embed_dim: size of the features.
        num_heads: of the attention; by default as makes a head 64 wide.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, embed_dim]``.

    Attributes:
        num_features: ``embed_dim``.
        stage_channels: C of each stage.
        stage_strides: pixels of the image that one step on a stage's map is.

    Raises:
        PasslError: sizes that do not fit together, or an image of another size.
    """

    released_names: Mapping[str, Any] = {
        # openai/CLIP, clip/model.py; open_clip's are the same
        "openai": ("torch", {**_OPENAI, **text_names("openai")}, NO_WEIGHTS),
        "open_clip_custom": ("torch", {**_OPENAI, **text_names("open_clip_custom")}, NO_WEIGHTS),
        "timm": ("torch", _TIMM),
        "paddlenlp": ("paddle", {**_PADDLENLP, **text_names("paddlenlp")}),
    }

    def __init__(
        self,
        img_size: Size = 224,
        in_channels: int = 3,
        blocks: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        embed_dim: int = 1024,
        num_heads: Optional[int] = None,
    ):
        super().__init__()
        check_sizes(in_channels=in_channels, blocks=list(blocks), embed_dim=embed_dim)
        check_sizes(2, width=width)
        self.img_size = to_pair(img_size, "img_size")
        if len(blocks) != 4:
            raise PasslError(f"blocks is a list of the blocks of four stages, not {list(blocks)}")
        if any(side % _STRIDE for side in self.img_size):
            raise PasslError(f"img_size {self.img_size} must be multiples of {_STRIDE}")
        self.in_channels, self.num_features = in_channels, embed_dim
        self.stage_channels: List[int] = [width * 2**i * _EXPANSION for i in range(4)]
        self.stage_strides: List[int] = [4, 8, 16, 32]
        half = width // 2
        self.stem = nn.LayerList(
            [
                ConvNorm(in_channels, half, 3, 2, "torch"),
                ConvNorm(half, half, 3, 1, "torch"),
                ConvNorm(half, width, 3, 1, "torch"),
            ]
        )
        self.stages = nn.LayerList()
        channels = width
        for i, depth in enumerate(blocks):
            stage = nn.LayerList()
            for j in range(depth):
                step = 2 if i and not j else 1
                stage.append(AveragedBottleneck(channels, width * 2**i, step))
                channels = self.stage_channels[i]
            self.stages.append(stage)
        grid = (self.img_size[0] // _STRIDE, self.img_size[1] // _STRIDE)
        heads = channels // _HEAD_WIDTH if num_heads is None else num_heads
        self.pool = AttentionPool(grid, channels, heads, embed_dim)
        self._initialize()

    def _initialize(self) -> None:
        for layer in self.sublayers():
            if isinstance(layer, nn.Conv2D):
                torch_default_(layer)
            elif isinstance(layer, AveragedBottleneck):
                zeros_(layer.layers[-1].norm.weight)

    def adapt_weight(
        self, name: str, shape: Sequence[int], publisher: str
    ) -> Optional[Tuple[Callable[[np.ndarray], np.ndarray], str]]:
        """Says how released positions for another image size become this network's.

        Args: and Returns: see ``VisionTransformer.adapt_weight``.
        """
        if name != "pool.pos_embed" or len(shape) != 3 or shape[2] != self.pool.q.weight.shape[0]:
            return None
        size, old = self.pool.grid, math.isqrt(max(shape[1] - 1, 0))
        if old < 1 or old * old != shape[1] - 1:
            return None

        def resize(array: np.ndarray) -> np.ndarray:
            return resized_positions(array, 1, size, "bicubic_antialias")

        return resize, f"positions of {old}×{old} places resized to {size[0]}×{size[1]} (bicubic)"

    @property
    def parameter_depths(self) -> Dict[str, int]:
        """How deep each parameter lies, from 0, for layer-wise learning rates.

        The stem is the first layer, each block one; the attention belongs to the last block.
        """
        return staged_depths(self, "stem.", "stages")

    @property
    def no_weight_decay(self) -> FrozenSet[str]:
        """Parameters that never decay besides biases and norms: none."""
        return frozenset()

    def pictured_weights(self) -> Dict[str, Tuple[str, np.ndarray]]:
        """Returns what is worth a look: the filters of the stem, ``[C, in_channels, 3, 3]``."""
        return {"stem": ("stem", self.stem[0].conv.weight.numpy())}

    def forward_stages(self, x) -> List[paddle.Tensor]:
        """Returns the feature map of every stage, ``[N, C_i, H_i, W_i]``, for dense prediction."""
        check_input(x, self.in_channels)
        for layer in self.stem:
            x = F.relu(layer(x))
        x = F.avg_pool2d(x, 2)
        outputs = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            outputs.append(x)
        return outputs

    def forward_features(self, x):
        """Returns the map of the last stage, before pooling, ``[N, C, H, W]``."""
        return self.forward_stages(x)[-1]

    def forward(self, x):
        check_input(x, self.in_channels)
        check_image_size(x, self.img_size)
        return self.pool(self.forward_features(x))


# Table 19 of the paper: name, blocks, width, size of the features, image size.
for _name, _blocks, _width, _embed_dim, _size in (
    ("50", (3, 4, 6, 3), 64, 1024, 224),
    ("101", (3, 4, 23, 3), 64, 512, 224),
    ("50x4", (4, 6, 10, 6), 80, 640, 288),
    ("50x16", (6, 8, 18, 8), 96, 768, 384),
    ("50x64", (3, 15, 36, 10), 128, 1024, 448),
):
    BACKBONES.register_variant(
        f"clip_resnet{_name}_{_size}",
        CLIPResNet,
        img_size=_size,
        blocks=_blocks,
        width=_width,
        embed_dim=_embed_dim,
    )
