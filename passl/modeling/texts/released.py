"""What released files call the text tower of CLIP, and what stands beside both towers.

The backbones' tables (``released_names``) take these in, because a file holds both towers.
"""

from __future__ import annotations

from typing import Any, Dict, Sequence

_BLOCK = "text.blocks.{i}"
_LAYERS = ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")
_OPENAI_PARTS = ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
_BIAS = "logit_bias[]"
_MASKS = ("attn_mask", "transformer.resblocks.{i}.attn_mask")
# Arrays in the files of OpenAI and open_clip that are settings, or made of them; programs of
# TorchScript keep masks that a state_dict has not.
NO_WEIGHTS = {
    "no_weights": (
        *("input_resolution", "context_length", "vocab_size"),
        *(f"{tower}{mask}" for tower in ("", "text.", "visual.") for mask in _MASKS),
    )
}


def text_names(publisher: str) -> Dict[str, Any]:
    """Returns layer or parameter here -> there, of everything but the image tower."""
    table = _TABLES[publisher]
    # As its scale; OpenAI has no bias, open_clip has one of SigLIP's loss.
    return {**table, _BIAS: table["logit_scale[]"].replace("scale", "bias")}


def _blocks(block: str, parts: Sequence[str]) -> Dict[str, str]:
    return {f"{_BLOCK}.{here}": f"{block}.{there}" for here, there in zip(_LAYERS, parts)}


def _parts(attention: str) -> tuple:
    return tuple(f"{attention}.{part}_proj" for part in "qkv")


def _openai(prefix: str, qkv: Dict[str, Any]) -> Dict[str, Any]:
    return {
        "logit_scale[]": "logit_scale[]",
        "text_projection.weight[:, :]": f"{prefix}text_projection[:, :]",
        "text.token_embed.weight[:, :]": f"{prefix}token_embedding.weight[:, :]",
        "text.pos_embed[:, :]": f"{prefix}positional_embedding[:, :]",
        "text.norm": f"{prefix}ln_final",
        **_blocks(f"{prefix}transformer.resblocks.{{i}}", _OPENAI_PARTS),
        **qkv,
    }


def _packed(prefix: str) -> Dict[str, Any]:
    attention = f"{prefix}transformer.resblocks.{{i}}.attn"
    return {
        f"{_BLOCK}.attn.qkv.weight[:, :]": f"{attention}.in_proj_weight[:, :]|transposed",
        f"{_BLOCK}.attn.qkv.bias[:]": f"{attention}.in_proj_bias[:]",
    }


_TABLES: Dict[str, Dict[str, Any]] = {
    "openai": _openai("", _packed("")),
    "open_clip_custom": _openai("text.", _packed("text.")),
    "paddlemix": {
        **_openai("", {f"{_BLOCK}.attn.qkv": _parts("transformer.resblocks.{i}.attn")}),
        "logit_scale[]": "logit_scale[1]",
    },
    "huggingface": {
        "logit_scale[]": "logit_scale[]",
        "text_projection": "text_projection",
        "text.token_embed.weight[:, :]": "text_model.embeddings.token_embedding.weight[:, :]",
        "text.pos_embed[:, :]": "text_model.embeddings.position_embedding.weight[:, :]",
        "text.norm": "text_model.final_layer_norm",
        **_blocks(
            "text_model.encoder.layers.{i}",
            ("layer_norm1", "layer_norm2", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"),
        ),
        f"{_BLOCK}.attn.qkv": _parts("text_model.encoder.layers.{i}.self_attn"),
    },
    "passl_v1": {
        "logit_scale[]": "logit_scale[1]",
        "text_projection.weight[:, :]": "text_projection[:, :]",
        "text.token_embed.weight[:, :]": "token_embedding.weight[:, :]",
        "text.pos_embed[:, :]": "positional_embedding[:, :]",
        "text.norm": "ln_final",
        **_blocks("transformer.blocks.{i}", ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")),
        f"{_BLOCK}.attn.qkv": "transformer.blocks.{i}.attn.qkv",
    },
    "paddlenlp": {
        "logit_scale[]": "logit_scale[1]",
        "text_projection.weight[:, :]": "text_projection[:, :]",
        "text.token_embed.weight[:, :]": "text_model.token_embedding.weight[:, :]",
        "text.pos_embed[:, :]": "text_model.positional_embedding.weight[:, :]",
        "text.norm": "text_model.ln_final",
        **_blocks(
            "text_model.transformer.layers.{i}",
            ("norm1", "norm2", "self_attn.out_proj", "linear1", "linear2"),
        ),
        f"{_BLOCK}.attn.qkv": _parts("text_model.transformer.layers.{i}.self_attn"),
    },
}
