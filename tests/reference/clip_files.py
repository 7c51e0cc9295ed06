"""Writes a small CLIP of open_clip with random weights as others release it, and what it answers.

Into OUT: ``open_clip.bin``, a state_dict; ``program.pt``, TorchScript in half precision as
OpenAI's; of a ViT ``timm.bin``, its image tower as timm names it, by timm's own conversion, and
``huggingface.bin``, a ``CLIPModel`` of transformers that gives the same. ``answers.npz``:
``pixels``, ``ids``, ``image`` and ``text``, the embeddings, ``half_image`` and ``half_text``, those
of the weights in half precision, computed in float32; ``large_pixels``, ``long_ids``, and
``large_image`` and ``long_text``, of the same weights with positions that open_clip resized.

    python tests/reference/clip_files.py vit OUT
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from open_clip.model import (
    CLIP,
    CLIPTextCfg,
    CLIPVisionCfg,
    convert_weights_to_lp,
    resize_pos_embed,
    resize_text_pos_embed,
)

TEXT = {"width": 64, "heads": 2, "layers": 2, "vocab_size": 100}
VISION = {
    "vit": {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "resnet": {"layers": [1, 2, 1, 1], "width": 16},
}
SIZES = {"vit": (48, 80), "resnet": (64, 64)}


def build(kind, size, context):
    vision = CLIPVisionCfg(image_size=size, **VISION[kind])
    words = CLIPTextCfg(context_length=context, **TEXT)
    return CLIP(64, vision, words, quick_gelu=True, output_dict=False).eval()


@torch.no_grad()
def randomize(model):
    rng = np.random.default_rng(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point() or name == "attn_mask":
            continue
        values = rng.standard_normal(tuple(tensor.shape))
        if tensor.ndim < 2:
            values = 0.2 * values + (1.0 if name.endswith(("weight", "var")) else 0.0)
        elif "embedding" not in name:
            values = values * tensor[0].numel() ** -0.5
        tensor.copy_(torch.tensor(np.abs(values) if name.endswith("var") else values))


@torch.no_grad()
def answers(model, pixels, ids):
    return model.encode_image(pixels).numpy(), model.encode_text(ids).numpy()


def ids_of(rng, context):
    ids = rng.integers(1, 98, (2, context))
    ids[0, -1] = 99
    ids[1, 4], ids[1, 5:] = 99, 0
    return torch.from_numpy(ids)


def timm_state(model):
    """What timm makes of open_clip's image tower."""
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    tower = VisionTransformer(
        img_size=48, patch_size=16, embed_dim=64, depth=2, num_heads=2, num_classes=64,
        pre_norm=True, norm_layer="layernorm", act_layer="quick_gelu",
    )  # fmt: skip
    visual = {f"visual.{n}": t for n, t in model.visual.state_dict().items()}
    tower.load_state_dict(checkpoint_filter_fn(visual, tower))
    return tower.state_dict()


def huggingface(model, context):
    """transformers' network with the same weights, put in by its own attributes."""
    from transformers import CLIPConfig, CLIPModel

    shared = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2}
    shared.update(num_hidden_layers=2, hidden_act="quick_gelu", projection_dim=64)
    words = dict(vocab_size=100, max_position_embeddings=context, eos_token_id=99, **shared)
    images = dict(image_size=48, patch_size=16, **shared)
    made = CLIPModel(CLIPConfig(text_config=words, vision_config=images, projection_dim=64))

    def blocks(layers, theirs):
        for layer, block in zip(layers, theirs):
            layer.layer_norm1, layer.layer_norm2 = block.ln_1, block.ln_2
            weights = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
            for part, weight, bias in zip("qkv", *weights):
                linear = getattr(layer.self_attn, f"{part}_proj")
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
            layer.self_attn.out_proj.load_state_dict(block.attn.out_proj.state_dict())
            layer.mlp.fc1, layer.mlp.fc2 = block.mlp.c_fc, block.mlp.c_proj

    with torch.no_grad():
        vision, text = made.vision_model, made.text_model
        blocks(vision.encoder.layers, model.visual.transformer.resblocks)
        blocks(text.encoder.layers, model.transformer.resblocks)
        vision.embeddings.patch_embedding = model.visual.conv1
        vision.embeddings.class_embedding.copy_(model.visual.class_embedding)
        vision.embeddings.position_embedding.weight.copy_(model.visual.positional_embedding)
        vision.pre_layrnorm, vision.post_layernorm = model.visual.ln_pre, model.visual.ln_post
        text.embeddings.token_embedding = model.token_embedding
        text.embeddings.position_embedding.weight.copy_(model.positional_embedding)
        text.final_layer_norm = model.ln_final
        made.visual_projection.weight.copy_(model.visual.proj.T)
        made.text_projection.weight.copy_(model.text_projection.T)
        made.logit_scale.copy_(model.logit_scale)
    return made.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=VISION)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    kind, out = arguments.network, arguments.out
    size, large = SIZES[kind]
    rng = np.random.default_rng(1)
    model = build(kind, size, 10)
    randomize(model)
    torch.save(model.state_dict(), out / "open_clip.bin")
    pixels = torch.from_numpy(rng.standard_normal((2, 3, size, size)).astype(np.float32))
    ids = ids_of(rng, 10)
    found = {"pixels": pixels.numpy(), "ids": ids.numpy()}
    found["image"], found["text"] = answers(model, pixels, ids)

    half = copy.deepcopy(model)
    convert_weights_to_lp(half)
    torch.jit.save(torch.jit.script(half), out / "program.pt")
    found["half_image"], found["half_text"] = answers(half.float(), pixels, ids)

    if kind == "vit":
        torch.save(timm_state(model), out / "timm.bin")
        theirs = huggingface(model, 10)
        torch.save(theirs.state_dict(), out / "huggingface.bin")
        with torch.no_grad():
            both = theirs(input_ids=ids, pixel_values=pixels)
        for name, embeds in (("image", both.image_embeds), ("text", both.text_embeds)):
            unit = found[name] / np.linalg.norm(found[name], axis=1, keepdims=True)
            np.testing.assert_allclose(embeds.numpy(), unit, atol=2e-5)
        other = build(kind, large, 17)
        state = copy.deepcopy(model.state_dict())
        resize_pos_embed(state, other)
        resize_text_pos_embed(state, other)
        other.load_state_dict(state)
        big = torch.from_numpy(rng.standard_normal((2, 3, large, large)).astype(np.float32))
        long = ids_of(rng, 17)
        found.update(large_pixels=big.numpy(), long_ids=long.numpy())
        found["large_image"], found["long_text"] = answers(other, big, long)
    np.savez(out / "answers.npz", **found)
