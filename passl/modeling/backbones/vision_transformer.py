"""Vision Transformer (ViT), and DeiT.

Dosovitskiy, Beyer, Kolesnikov, Weissenborn, Zhai, Unterthiner, Dehghani, Minderer, Heigold, Gelly,
Uszkoreit, Houlsby: "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
arXiv 2010.11929. Touvron, Cord, Douze, Massa, Sablayrolles, Jégou: "Training data-efficient
image transformers & distillation through attention", arXiv 2012.12877.

Legend for shapes: N images, S tokens (patches and what is put before them), C channels of a token.
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
    PatchEmbed,
    QuickGELU,
    TransformerBlock,
    check_drop_rate,
    check_heads,
    check_sizes,
    column_depths,
    drop_path_rates,
    lecun_normal_,
    normal_,
    resized_positions,
    sincos_positions,
    stage_ends,
    stage_maps,
    torch_default_,
    uniform_,
    zeros_,
)
from passl.modeling.layers.patch_embed import Size
from passl.utils.errors import PasslError

_LAYERS = (
    "backbone.stem.proj",
    "backbone.cls_token[1, 1, :]",
    "backbone.pos_embed[1, :, :]",
    "backbone.blocks.{i}.norm1",
    "backbone.blocks.{i}.attn.qkv",
    "backbone.blocks.{i}.attn.proj",
    "backbone.blocks.{i}.norm2",
    "backbone.blocks.{i}.mlp.fc1",
    "backbone.blocks.{i}.mlp.fc2",
    "backbone.norm",
    "backbone.pre_logits",
    "head.fc",
    "backbone.dist_token[1, 1, :]",
    "head.fc_dist",
)
# timm/models/vision_transformer.py and deit.py; facebookresearch/deit, models.py, has the same.
_TIMM = (
    "patch_embed.proj",
    "cls_token[1, 1, :]",
    "pos_embed[1, :, :]",
    "blocks.{i}.norm1",
    "blocks.{i}.attn.qkv",
    "blocks.{i}.attn.proj",
    "blocks.{i}.norm2",
    "blocks.{i}.mlp.fc1",
    "blocks.{i}.mlp.fc2",
    "norm",
    "pre_logits.fc",
    "head",
    "dist_token[1, 1, :]",
    "head_dist",
)


def _as_big_vision(name: str) -> str:
    for google, other in (
        ("Attention_1", "Attention_0"),
        ("LayerNorm_2", "LayerNorm_1"),
        ("MlpBlock_3", "MlpBlock_0"),
        ("Transformer/posembed_input/pos_embedding", "pos_embedding"),
    ):
        name = name.replace(google, other)
    return name


_FLAX_BLOCK = "Transformer/encoderblock_{i}"
_FLAX_ATTENTION = f"{_FLAX_BLOCK}/MultiHeadDotProductAttention_1"
# google-research/vision_transformer, vit_jax/models_vit.py
_GOOGLE = (
    "embedding",
    "cls[1, 1, :]",
    "Transformer/posembed_input/pos_embedding[1, :, :]",
    f"{_FLAX_BLOCK}/LayerNorm_0",
    tuple(f"{_FLAX_ATTENTION}/{part}" for part in ("query", "key", "value")),
    f"{_FLAX_ATTENTION}/out",
    f"{_FLAX_BLOCK}/LayerNorm_2",
    f"{_FLAX_BLOCK}/MlpBlock_3/Dense_0",
    f"{_FLAX_BLOCK}/MlpBlock_3/Dense_1",
    "Transformer/encoder_norm",
    "pre_logits",
    "head",
)
# google-research/big_vision, models/vit.py, where the class token comes after the positions.
_BIG_VISION = tuple(
    tuple(map(_as_big_vision, name)) if isinstance(name, tuple) else _as_big_vision(name)
    for name in _GOOGLE
)
# BR-IDL/PaddleViT, image_classification/ViT and DeiT
_PADDLEVIT = (
    "patch_embedding.patch_embedding",
    "cls_token[1, 1, :]",
    "position_embedding[1, :, :]",
    "encoder.layers.{i}.attn_norm",
    "encoder.layers.{i}.attn.qkv",
    "encoder.layers.{i}.attn.out",
    "encoder.layers.{i}.mlp_norm",
    "encoder.layers.{i}.mlp.fc1",
    "encoder.layers.{i}.mlp.fc2",
    "encoder.encoder_norm",
    "pre_logits",
    "classifier",
    "dist_token[1, 1, :]",
    "classifier_dist",
)
_HF_LAYER = "encoder.layer.{i}"


def _huggingface(model: str, heads: Tuple[str, ...]) -> Tuple[object, ...]:
    """Transformers' names, transformers/models/vit and deit, modeling_*.py."""
    names = (
        "embeddings.patch_embeddings.projection",
        "embeddings.cls_token[1, 1, :]",
        "embeddings.position_embeddings[1, :, :]",
        f"{_HF_LAYER}.layernorm_before",
        tuple(f"{_HF_LAYER}.attention.attention.{part}" for part in ("query", "key", "value")),
        f"{_HF_LAYER}.attention.output.dense",
        f"{_HF_LAYER}.layernorm_after",
        f"{_HF_LAYER}.intermediate.dense",
        f"{_HF_LAYER}.output.dense",
        "layernorm",
    )
    put = [
        tuple(f"{model}.{part}" for part in name) if isinstance(name, tuple) else f"{model}.{name}"
        for name in names
    ]
    token = f"{model}.embeddings.distillation_token[1, 1, :]"
    return (*put, "pre_logits", heads[0], token, heads[1])


# Widths of the networks of the paper, and of a head of theirs.
_HEAD_WIDTHS = {192: 64, 384: 64, 768: 64, 1024: 64, 1280: 80}

_RELEASED_NAMES: Dict[str, tuple] = {
    "timm": ("torch", _TIMM),
    "facebook": ("torch", _TIMM, {"key": "model"}),
    "google": ("flax", _GOOGLE, {"head_widths": _HEAD_WIDTHS}),
    "big_vision": ("flax", _BIG_VISION, {"head_widths": _HEAD_WIDTHS}),
    # PASSL 1.0 and 1.1, GoogleVisionTransformer and DistilledVisionTransformer
    "passl_v1": (
        "paddle",
        tuple(f"backbone.{name}".replace("pre_logits.fc", "head0") for name in _TIMM),
    ),
    "paddleclas": ("paddle", _TIMM),  # ppcls/arch/backbone/model_zoo/vision_transformer.py
    "paddlevit": ("paddle", _PADDLEVIT),
    "huggingface": ("torch", _huggingface("vit", ("classifier", "distillation_classifier"))),
    "huggingface_deit": (
        "torch",
        _huggingface("deit", ("cls_classifier", "distillation_classifier")),
    ),
}
_INITS = ("xavier", "normal")
# Who resizes learned positions how; see layers/position_grids.py. Our own: as DeiT's authors.
_WAYS = {
    "google": "bilinear_aligned",
    "big_vision": "bilinear_aligned",
    "timm": "bicubic_antialias",
    "openai": "bicubic_antialias",  # open_clip; OpenAI has none
    "open_clip_custom": "bicubic_antialias",
}


@BACKBONES.register
class VisionTransformer(nn.Layer):
    """ViT without its classification layer.

    Args:
        img_size: height and width of the images in pixels; one number for a square. A network
            serves one image size; released weights for another one are resized.
        patch_size: height and width of a patch; divides ``img_size``.
        in_channels: channels of the images.
        embed_dim: C ("hidden size D" in table 1).
        num_blocks: layers ("L").
        num_heads: of the attention; divides C.
        mlp_ratio: width of the MLPs, in units of C.
        qkv_bias: whether the map to queries, keys and values has a bias.
        representation_size: width of a further layer with tanh before the classification layer, as
            the first networks pre-trained on ImageNet-21k have (``pre_logits``); None: none.
        pool: ``token``: what a learned token before the patches has become (section 3.1); ``mean``:
            the mean of the patches after the last norm, without such a token (big_vision).
        positions: ``learned``, or ``sincos``: fixed, of sines and cosines in two dimensions (Beyer,
            Zhai, Kolesnikov: "Better plain ViT baselines for ImageNet-1k", arXiv 2205.01580).
        gelu_approximate: the tanh form of GELU, which Google's code calls; accuracies were
            measured with the exact form.
        drop_rate: dropout after the positions, the attention's projection and each map of the MLPs.
        attention_drop_rate: dropout of the attention weights.
        drop_path_rate: stochastic depth of the last block, rising from 0 at the first.
        init: how the network starts: ``xavier`` (ViT's authors) or ``normal``, of standard
            deviation 0.02 (DeiT's).
        stem_bias: whether the map of the patches has a bias.
        pre_norm: a further norm, of the tokens before the first block (CLIP).
        epsilon: of the norms.
        quick_gelu: x σ(1.702 x) in GELU's place (CLIP).
        stage_blocks: after which blocks ``forward_stages`` takes its maps, counted from 1; by
            default after a quarter, half, three quarters and all of them.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, num_features]``.

    Attributes:
        num_features: C, or ``representation_size``.
        stage_channels: C for each map.
        stage_strides: the patch's height for each map.

    Raises:
        PasslError: sizes that do not fit together, or an image of another size.
    """

    # What a network of this class needs to tell classes apart, where no config says so.
    default_head = "ClassificationHead"
    # Tokens before the patches, by name.
    _tokens: Tuple[str, ...] = ("cls_token",)

    released_names = {
        publisher: (convention, dict(zip(_LAYERS, names)), *options)
        for publisher, (convention, names, *options) in _RELEASED_NAMES.items()
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
        qkv_bias: bool = True,
        representation_size: Optional[int] = None,
        pool: str = "token",
        positions: str = "learned",
        gelu_approximate: bool = False,
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        init: str = "xavier",
        stage_blocks: Optional[Sequence[int]] = None,
        stem_bias: bool = True,
        pre_norm: bool = False,
        epsilon: float = 1e-6,
        quick_gelu: bool = False,
    ):
        super().__init__()
        hidden = int(embed_dim * mlp_ratio)
        check_sizes(
            in_channels=in_channels, embed_dim=embed_dim, num_blocks=num_blocks, mlp_ratio=hidden
        )
        check_heads(embed_dim, num_heads)
        check_drop_rate(drop_rate)
        for name, given, known in (
            ("pool", pool, ("token", "mean")),
            ("positions", positions, ("learned", "sincos")),
            ("init", init, _INITS),
        ):
            if given not in known:
                raise PasslError(f"{name} is {' or '.join(map(repr, known))}, not '{given}'")
        self.stem = PatchEmbed(img_size, patch_size, in_channels, embed_dim, stem_bias)
        self._before = self._tokens if pool == "token" else ()
        for token in self._before:
            setattr(self, token, self.create_parameter([1, 1, embed_dim]))
        if positions == "learned":
            count = len(self._before) + self.stem.num_patches
            self.pos_embed = self.create_parameter([1, count, embed_dim])
        else:
            fixed = sincos_positions(self.stem.grid, embed_dim)
            fixed = np.pad(fixed, ((len(self._before), 0), (0, 0)))[None]
            self.register_buffer(
                "pos_embed", paddle.to_tensor(fixed.astype(np.float32)), persistable=False
            )
        self.norm_pre = LayerNorm(embed_dim, epsilon) if pre_norm else None
        self.pos_drop = nn.Dropout(drop_rate) if drop_rate else nn.Identity()
        self.blocks = nn.LayerList(
            [
                TransformerBlock(
                    embed_dim,
                    num_heads,
                    hidden,
                    DropPath(rate),
                    qkv_bias=qkv_bias,
                    epsilon=epsilon,
                    gelu_approximate=gelu_approximate,
                    dropout=drop_rate,
                    attention_dropout=attention_drop_rate,
                    act=QuickGELU() if quick_gelu else None,
                )
                for rate in drop_path_rates(drop_path_rate, num_blocks)
            ]
        )
        self.norm = LayerNorm(embed_dim, epsilon)
        self.pre_logits = Linear(embed_dim, representation_size) if representation_size else None
        self.num_features = representation_size or embed_dim
        self._ends = stage_ends(stage_blocks, num_blocks)
        self.stage_channels: List[int] = [embed_dim] * len(self._ends)
        self.stage_strides: List[int] = [self.stem.patch_size[0]] * len(self._ends)
        self._initialize(init)

    def _initialize(self, init: str) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(("_token", "pos_embed")):
                # The authors' token starts at 0, DeiT's are drawn as everything else.
                if init == "xavier" and name.endswith("_token"):
                    zeros_(parameter)
                else:
                    normal_(parameter, std=0.02)
        if init == "normal":  # _init_weights of facebookresearch/deit's timm
            torch_default_(self.stem.proj)
            for layer in self.sublayers():
                if isinstance(layer, nn.Linear):
                    normal_(layer.weight, std=0.02)
                    if layer.bias is not None:
                        zeros_(layer.bias)
            return
        # vit_jax/models_vit.py: Xavier's uniform distribution for each of queries, keys and values
        # by itself; biases of the MLPs hardly differ from 0.
        lecun_normal_(self.stem.proj.weight, fan_in=math.prod(self.stem.proj.weight.shape[1:]))
        if self.stem.proj.bias is not None:
            zeros_(self.stem.proj.bias)
        for block in self.blocks:
            qkv = block.attn.qkv
            for layer, outputs in (
                (qkv, qkv.weight.shape[0]),
                (block.attn.proj, block.attn.proj.weight.shape[1]),
                (block.mlp.fc1, block.mlp.fc1.weight.shape[1]),
                (block.mlp.fc2, block.mlp.fc2.weight.shape[1]),
            ):
                uniform_(layer.weight, math.sqrt(6.0 / (layer.weight.shape[0] + outputs)))
                if layer.bias is not None:
                    zeros_(layer.bias)
            for layer in (block.mlp.fc1, block.mlp.fc2):
                normal_(layer.bias, std=1e-6)
        if self.pre_logits is not None:
            lecun_normal_(self.pre_logits.weight, fan_in=self.pre_logits.weight.shape[0])
            zeros_(self.pre_logits.bias)

    def adapt_weight(
        self, name: str, shape: Sequence[int], publisher: str
    ) -> Optional[Tuple[Callable[[np.ndarray], np.ndarray], str]]:
        """Says how released positions for another image size become this network's.

        The grid of the patches' positions is resized, as the file's publisher does it; positions of
        the tokens before them stay.

        Args:
            name: a parameter of this network.
            shape: its shape in the file, in Paddle's layout, different from that here.
            publisher: whose names the file uses.

        Returns:
            A function from the old array to the new, and a sentence that says what it does; None
            where the size of the images does not explain the difference.

        Raises:
            PasslError: positions that are of no square image; says why.
        """
        if name != "pos_embed" or len(shape) != 3 or shape[2] != self.pos_embed.shape[2]:
            return None
        before, size = len(self._before), self.stem.grid
        given = 0 if publisher == "big_vision" else before  # tokens that have positions there
        if abs(shape[1] - given - self.stem.num_patches) == 1:  # tokens more or less, not patches
            return None
        old = math.isqrt(max(shape[1] - given, 0))
        if old < 1 or old * old != shape[1] - given:
            raise PasslError(
                f"it has {shape[1]} positions, which are not {given} and those of a square grid "
                "of patches; build the network with the img_size and patch_size of the file"
            )
        way = _WAYS.get(publisher, "bicubic")

        def resize(array: np.ndarray) -> np.ndarray:
            if size != (old, old):
                array = resized_positions(array, given, size, way)
            return np.pad(array, ((0, 0), (before - given, 0), (0, 0)))

        if size == (old, old):
            return resize, "the class token has no position"
        words = way.replace("_", ", ").replace("aligned", "corners aligned")
        return resize, f"positions of {old}×{old} patches resized to {size[0]}×{size[1]} ({words})"

    @property
    def parameter_depths(self) -> Dict[str, int]:
        """How deep each parameter lies, see ``column_depths``; tokens and positions: the first."""
        return column_depths(self, ("stem", "pos_embed", "norm_pre", *self._tokens))

    @property
    def no_weight_decay(self) -> FrozenSet[str]:
        """Parameters that never decay besides biases and norms: positions and tokens."""
        names = {name for name, _ in self.named_parameters()}
        return frozenset(names.intersection(("pos_embed", *self._tokens)))

    def pictured_weights(self) -> Dict[str, Tuple[str, np.ndarray]]:
        """Returns what figure 7 of the paper shows: name -> (kind, weights).

        ``stem``: the patch embedding, ``[C, in_channels, patch, patch]``; ``similarity``: the
        cosine of the position of each patch and that of every other, ``[H_p, W_p, H_p, W_p]``.
        """
        positions = self.pos_embed.numpy()[0, len(self._before) :].astype(np.float64)
        positions /= np.maximum(np.linalg.norm(positions, axis=1, keepdims=True), 1e-30)
        cosines = (positions @ positions.T).reshape(*self.stem.grid, *self.stem.grid)
        return {
            "stem": ("stem", self.stem.proj.weight.numpy()),
            "positions": ("similarity", cosines),
        }

    @property
    def attended(self) -> Tuple[int, Tuple[int, int], int]:
        """What attention goes over: tokens before the patches, the patches' grid, their pixels."""
        return len(self._before), self.stem.grid, self.stem.patch_size[0]

    def _embedded(self, x):
        """Returns the first block's input, ``[N, S, C]``."""
        x = self.stem(x)
        if self._before:
            tokens = [getattr(self, token).expand([x.shape[0], -1, -1]) for token in self._before]
            x = paddle.concat([*(token.astype(x.dtype) for token in tokens), x], axis=1)
        x = self.pos_drop(x + self.pos_embed.astype(x.dtype))
        return x if self.norm_pre is None else self.norm_pre(x)

    def forward_features(self, x):
        """Returns the normalised tokens before pooling, ``[N, S, C]``."""
        x = self._embedded(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward_stages(self, x) -> List[paddle.Tensor]:
        """Returns maps of the patches after some of the blocks, ``[N, C, H_p, W_p]`` each."""
        tokens = self._embedded(x)
        return stage_maps(self.blocks, tokens, self._ends, self.stem.grid, len(self._before))

    def forward(self, x):
        x = self.forward_features(x)
        x = x[:, 0] if self._before else x.mean(axis=1)
        return x if self.pre_logits is None else paddle.tanh(self.pre_logits(x))


@BACKBONES.register
class DistilledVisionTransformer(VisionTransformer):
    """DeiT with a distillation token beside the class token (arXiv 2012.12877, section 4).

    Args: as of ``VisionTransformer``, but for ``pool`` and ``representation_size``.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, 2·C]``, what the class token and the
        distillation token have become, for ``DistilledHead``.

    Attributes:
        num_features: 2·C.
    """

    default_head = "DistilledHead"
    _tokens = ("cls_token", "dist_token")

    def __init__(
        self,
        img_size: Size = 224,
        patch_size: Size = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        num_blocks: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        positions: str = "learned",
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        init: str = "normal",
        stage_blocks: Optional[Sequence[int]] = None,
    ):
        super().__init__(
            img_size,
            patch_size,
            in_channels,
            embed_dim,
            num_blocks,
            num_heads,
            mlp_ratio,
            qkv_bias,
            positions=positions,
            drop_rate=drop_rate,
            attention_drop_rate=attention_drop_rate,
            drop_path_rate=drop_path_rate,
            init=init,
            stage_blocks=stage_blocks,
        )
        self.num_features = 2 * embed_dim

    def forward(self, x):
        return self.forward_features(x)[:, :2].flatten(1)


# Table 1 of ViT's paper, and the smaller ones of Steiner et al., "How to train your ViT?", arXiv
# 2106.10270, table 2: name, C, blocks, heads; with the patches and image sizes of released weights.
for _name, _c, _blocks, _heads, _sizes in (
    ("ti", 192, 12, 3, ((16, 224), (16, 384))),
    ("s", 384, 12, 6, ((32, 224), (32, 384), (16, 224), (16, 384))),
    ("b", 768, 12, 12, ((32, 224), (32, 384), (16, 224), (16, 384), (8, 224))),
    (
        "l",
        1024,
        24,
        16,
        ((32, 224), (32, 384), (16, 224), (16, 384), (16, 512), (14, 224)),
    ),
    ("h", 1280, 32, 16, ((14, 224), (14, 378))),
):
    for _patch, _size in _sizes:
        BACKBONES.register_variant(
            f"vit_{_name}{_patch}_{_size}",
            VisionTransformer,
            img_size=_size,
            patch_size=_patch,
            embed_dim=_c,
            num_blocks=_blocks,
            num_heads=_heads,
        )

# Table 1 of DeiT's paper; the base network also fine-tuned at 384 pixels.
for _name, _c, _heads, _size in (
    ("ti16", 192, 3, 224),
    ("s16", 384, 6, 224),
    ("b16", 768, 12, 224),
    ("b16", 768, 12, 384),
):
    for _middle, _class in (("", VisionTransformer), ("_distilled", DistilledVisionTransformer)):
        BACKBONES.register_variant(
            f"deit_{_name}{_middle}_{_size}",
            _class,
            img_size=_size,
            patch_size=16,
            embed_dim=_c,
            num_blocks=12,
            num_heads=_heads,
            init="normal",
        )
