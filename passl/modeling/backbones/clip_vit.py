"""The Vision Transformer of CLIP.

Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger, Sutskever:
"Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020, section
2.4; the authors' code is github.com/openai/CLIP, clip/model.py. Larger sizes: Cherti et al.,
"Reproducible scaling laws for contrastive language-image learning", arXiv 2212.07143, and
github.com/mlfoundations/open_clip.
"""

from __future__ import annotations

import math
from typing import Any, Dict, FrozenSet, Mapping, Optional, Sequence

from passl.modeling.backbones.registry import BACKBONES
from passl.modeling.backbones.vision_transformer import VisionTransformer
from passl.modeling.layers import normal_, torch_default_, uniform_, zeros_
from passl.modeling.layers.patch_embed import Size
from passl.modeling.texts.released import NO_WEIGHTS, text_names

_QKV = "backbone.blocks.{i}.attn.qkv"
# The layers that all publishers have as such; what differs more stands in the tables below.
_LAYERS = (
    "backbone.stem.proj",
    "backbone.norm_pre",
    "backbone.norm",
    "backbone.blocks.{i}.norm1",
    "backbone.blocks.{i}.norm2",
    "backbone.blocks.{i}.attn.proj",
    "backbone.blocks.{i}.mlp.fc1",
    "backbone.blocks.{i}.mlp.fc2",
)


def _names(prefix: str, stem: str, norms: Sequence[str], block: str, parts: Sequence[str]) -> Dict:
    """Returns layer here -> layer there.

    Args:
        prefix: of all names there.
        stem: the map of the patches.
        norms: before the first block, and after the last one.
        block: one of them.
        parts: of a block, in the order of ``_LAYERS``.
    """
    there = (stem, *norms, *(f"{block}.{part}" for part in parts))
    return {here: prefix + name for here, name in zip(_LAYERS, there)}


def _openai(parts: Sequence[str]) -> Dict[str, Any]:
    return {
        **_names("visual.", "conv1", ("ln_pre", "ln_post"), "transformer.resblocks.{i}", parts),
        "backbone.cls_token[1, 1, :]": "visual.class_embedding[:]",
        "backbone.pos_embed[1, :, :]": "visual.positional_embedding[:, :]",
        "image_projection.weight[:, :]": "visual.proj[:, :]",
    }


_OPENAI_PARTS = ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
_OPENAI = {
    **_openai(_OPENAI_PARTS),
    f"{_QKV}.weight[:, :]": "visual.transformer.resblocks.{i}.attn.in_proj_weight[:, :]|transposed",
    f"{_QKV}.bias[:]": "visual.transformer.resblocks.{i}.attn.in_proj_bias[:]",
}
_TIMM_PARTS = ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")
_TIMM = {
    **_names("", "patch_embed.proj", ("norm_pre", "norm"), "blocks.{i}", _TIMM_PARTS),
    _QKV: "blocks.{i}.attn.qkv",
    "backbone.cls_token[1, 1, :]": "cls_token[1, 1, :]",
    "backbone.pos_embed[1, :, :]": "pos_embed[1, :, :]",
}

_RELEASED_NAMES: Mapping[str, tuple] = {
    # openai/CLIP, clip/model.py; open_clip's are the same
    "openai": ("torch", {**_OPENAI, **text_names("openai")}, NO_WEIGHTS),
    # open_clip's CustomTextCLIP
    "open_clip_custom": ("torch", {**_OPENAI, **text_names("open_clip_custom")}, NO_WEIGHTS),
    # transformers/models/clip/modeling_clip.py
    "huggingface": (
        "torch",
        {
            **_names(
                "vision_model.",
                "embeddings.patch_embedding",
                ("pre_layrnorm", "post_layernorm"),
                "encoder.layers.{i}",
                ("layer_norm1", "layer_norm2", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"),
            ),
            _QKV: tuple(
                f"vision_model.encoder.layers.{{i}}.self_attn.{part}_proj" for part in "qkv"
            ),
            "backbone.cls_token[1, 1, :]": "vision_model.embeddings.class_embedding[:]",
            "backbone.pos_embed[1, :, :]": (
                "vision_model.embeddings.position_embedding.weight[:, :]"
            ),
            "image_projection": "visual_projection",
            **text_names("huggingface"),
        },
        {
            "no_weights": (
                "text_model.embeddings.position_ids",
                "vision_model.embeddings.position_ids",
            )
        },
    ),
    # timm/models/vision_transformer.py, vit_*_clip_*: the image tower alone, whose projection is
    # called a head with a bias of zeros; and what was fine-tuned, where it is one of classes
    "timm": (
        "torch",
        {**_TIMM, "image_projection.weight[:, :]": "head.weight[:, :]|transposed"},
        {"no_weights": ("head.bias",), "zeros": ("head.bias",)},
    ),
    "timm_classifier": ("torch", {**_TIMM, "head.fc": "head"}),
    # PASSL 1.0 and 1.1, passl/modeling/backbones/clip.py, without the "model." before all names
    "passl_v1": (
        "paddle",
        {
            **_names(
                "visual.", "patch_embed.proj", ("norm_pre", "norm_post"), "blocks.{i}", _TIMM_PARTS
            ),
            _QKV: "visual.blocks.{i}.attn.qkv",
            "backbone.cls_token[1, 1, :]": "visual.class_embedding[1, 1, :]",
            "backbone.pos_embed[1, :, :]": "visual.positional_embedding[1, :, :]",
            "image_projection.weight[:, :]": "visual.proj[:, :]",
            **text_names("passl_v1"),
        },
    ),
    # paddlenlp/transformers/clip/modeling.py
    "paddlenlp": (
        "paddle",
        {
            **_names(
                "vision_model.",
                "conv1",
                ("ln_pre", "ln_post"),
                "transformer.layers.{i}",
                ("norm1", "norm2", "self_attn.out_proj", "linear1", "linear2"),
            ),
            _QKV: tuple(
                f"vision_model.transformer.layers.{{i}}.self_attn.{part}_proj" for part in "qkv"
            ),
            "backbone.cls_token[1, 1, :]": "vision_model.class_embedding[:]",
            "backbone.pos_embed[1, :, :]": "vision_model.positional_embedding.weight[:, :]",
            "image_projection.weight[:, :]": "vision_projection[:, :]",
            **text_names("paddlenlp"),
        },
    ),
    # paddlemix/models/clip
    "paddlemix": (
        "paddle",
        {
            **_openai(_OPENAI_PARTS),
            _QKV: tuple(f"visual.transformer.resblocks.{{i}}.attn.{part}_proj" for part in "qkv"),
            **text_names("paddlemix"),
        },
        NO_WEIGHTS,
    ),
}


@BACKBONES.register
class CLIPVisionTransformer(VisionTransformer):
    """CLIP's image tower before its projection: a ViT with a further norm before the first block.

    Its patches' map has no bias, and its norms have an epsilon of 1e-5. Features are those of the
    class token after the last norm, which the paper's linear probes take.

    Args:
        img_size, patch_size, in_channels, embed_dim, num_blocks, num_heads, mlp_ratio: see
            ``VisionTransformer``.
        quick_gelu: x σ(1.702 x) in GELU's place. OpenAI's weights and some of open_clip's were
            trained with it, and are worse by points without; others the other way round.
        drop_rate, attention_drop_rate, drop_path_rate, stage_blocks: see ``VisionTransformer``.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, C]``.
    """

    released_names = _RELEASED_NAMES

    def __init__(
        self,
        img_size: Size = 224,
        patch_size: Size = 32,
        in_channels: int = 3,
        embed_dim: int = 768,
        num_blocks: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        quick_gelu: bool = False,
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
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
            drop_rate=drop_rate,
            attention_drop_rate=attention_drop_rate,
            drop_path_rate=drop_path_rate,
            stage_blocks=stage_blocks,
            stem_bias=False,
            pre_norm=True,
            epsilon=1e-5,
            quick_gelu=quick_gelu,
        )
        self.quick_gelu = quick_gelu

    def _initialize(self, init: str) -> None:
        # clip/model.py draws its own parameters so, and leaves the rest to torch.
        std = self.cls_token.shape[-1] ** -0.5
        normal_(self.cls_token, std=std)
        normal_(self.pos_embed, std=std)
        torch_default_(self.stem.proj)
        for block in self.blocks:
            # torch.nn.MultiheadAttention: Xavier's bound of queries, keys and values together.
            uniform_(block.attn.qkv.weight, math.sqrt(6.0 / sum(block.attn.qkv.weight.shape)))
            zeros_(block.attn.qkv.bias)
            for layer in (block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                torch_default_(layer)
            zeros_(block.attn.proj.bias)

    @property
    def no_weight_decay(self) -> FrozenSet[str]:
        """The class token; positions and patches decay (open_clip's rule, also the paper's)."""
        return frozenset({"cls_token"})


# Table 20 of the paper, and open_clip's model_configs: name, C, blocks, heads, hidden of the MLPs,
# patch, image size.
for _name, _c, _blocks, _heads, _hidden, _patch, _sizes in (
    ("s16", 384, 12, 6, 1536, 16, (224,)),
    ("b32", 768, 12, 12, 3072, 32, (224, 256)),
    ("b16", 768, 12, 12, 3072, 16, (224,)),
    ("b16_plus", 896, 12, 14, 3584, 16, (240,)),
    ("l14", 1024, 24, 16, 4096, 14, (224, 336)),
    ("h14", 1280, 32, 16, 5120, 14, (224,)),
    ("g14", 1408, 40, 16, 6144, 14, (224,)),
    ("bigg14", 1664, 48, 16, 8192, 14, (224,)),
):
    for _size in _sizes:
        BACKBONES.register_variant(
            f"clip_vit_{_name}_{_size}",
            CLIPVisionTransformer,
            img_size=_size,
            patch_size=_patch,
            embed_dim=_c,
            num_blocks=_blocks,
            num_heads=_heads,
            mlp_ratio=_hidden / _c,
        )
