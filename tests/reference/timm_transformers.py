"""Writes one of timm's ViTs, DeiTs or Swins with random weights, and what it answers.

Into OUT: ``weights.safetensors`` in timm's names, and ``answers.npz`` with ``pixels`` of
photographs, ``logits`` for all of them; for the first two ``gradient`` (of their mean
cross-entropy, with ``labels``, by the pixels) and ``stage_0`` to ``stage_3``; and ``parameters``,
their number.

    python tests/reference/timm_transformers.py vit_small_patch16_224 OUT --photographs A.jpg B.jpg

With ``--file-size PIXELS`` the file is that of a network for square images of this size, which
timm makes into one for others.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import safetensors.torch
import timm
import timm.data
import torch
from authors import answers
from PIL import Image
from timm_beit import randomize

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model")
parser.add_argument("out", type=Path)
parser.add_argument("--photographs", nargs="+", required=True)
parser.add_argument("--arguments", type=json.loads, default={})
parser.add_argument("--file-size", type=int)
parsed = parser.parse_args()


def build(**arguments):
    given = {**parsed.arguments, **arguments}
    return timm.create_model(parsed.model, pretrained=False, num_classes=1000, **given)


model = build()
source = build(img_size=parsed.file_size) if parsed.file_size else model
weights = randomize(source).state_dict()
weights = {name: w for name, w in weights.items() if not name.endswith(("index", "attn_mask"))}
safetensors.torch.save_file(weights, parsed.out / "weights.safetensors")
if parsed.file_size:
    swin = hasattr(model, "layers")
    module = timm.models.swin_transformer if swin else timm.models.vision_transformer
    model.load_state_dict(module.checkpoint_filter_fn(dict(weights), model), strict=False)
    model.eval()

stages = {}


def keep(name, tokens_before, grid):
    def hook(_module, _inputs, output):
        found = output.detach().numpy()[:2]
        if grid is None:  # Swin's stages are maps, channels last
            stages[name] = found.transpose(0, 3, 1, 2)
        else:
            patches = found[:, tokens_before:].transpose(0, 2, 1)
            stages[name] = patches.reshape(*patches.shape[:2], *grid)

    return hook


if hasattr(model, "layers"):
    for i, layer in enumerate(model.layers):
        layer.register_forward_hook(keep(f"stage_{i}", 0, None))
else:
    for i, end in enumerate(len(model.blocks) * quarter // 4 for quarter in range(1, 5)):
        before, grid = model.num_prefix_tokens, model.patch_embed.grid_size
        model.blocks[end - 1].register_forward_hook(keep(f"stage_{i}", before, grid))

size = model.patch_embed.img_size
view = timm.data.create_transform((3, *size), crop_pct=0.9, interpolation="bicubic")
pixels = np.stack([view(Image.open(path).convert("RGB")) for path in parsed.photographs])
labels = np.array([3, 7])
found = answers(model, pixels[:2], labels)
with torch.no_grad():
    found["logits"] = model(torch.from_numpy(pixels)).numpy()
np.savez(
    parsed.out / "answers.npz",
    pixels=pixels,
    labels=labels,
    parameters=sum(parameter.numel() for parameter in model.parameters()),
    **found,
    **{name: array[:2] for name, array in stages.items()},
)
