"""Writes timm's BEiT with random weights, and what it answers for made-up images.

Into OUT: ``weights.pth`` in timm's names, which are the authors' too, and ``answers.npz`` with
``pixels``, ``labels``, ``logits``, ``gradient`` (of the mean cross-entropy by the pixels),
``stage_0`` to ``stage_3``, the patches' maps after each quarter of the blocks, and
``parameters``, their number.

    python tests/reference/timm_beit.py OUT
    python tests/reference/timm_beit.py OUT --arguments '{"img_size": [48, 80], "depth": 4}'

With ``--file-size PIXELS`` the file is that of a network for square images of this size, which
timm makes into one for others.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import timm
import torch
from authors import answers
from timm.models.beit import checkpoint_filter_fn

# What goes onto the sum along the network is small, as it is then that the epsilon of the norms
# matters.
_ONTO_THE_SUM = ("patch_embed.proj.weight", "attn.proj.weight", "mlp.fc2.weight")


@torch.no_grad()
def randomize(model):
    """Draws every parameter, so that none is without effect."""
    rng = np.random.default_rng(0)
    for name, tensor in model.named_parameters():
        shape = tuple(tensor.shape)
        if "gamma" in name or ("norm" in name and name.endswith("weight")):
            values = rng.uniform(0.5, 1.5, shape)
        elif tensor.ndim in (2, 4) and not name.endswith("table"):
            values = rng.standard_normal(shape) * tensor[0].numel() ** -0.5
            values *= 0.1 if name.endswith(_ONTO_THE_SUM) else 1.0
        else:
            values = rng.standard_normal(shape) * (1.0 if name.endswith("table") else 0.3)
        if name in ("patch_embed.proj.bias", "cls_token", "pos_embed"):
            values = values * 0.1
        tensor.copy_(torch.from_numpy(values.astype(np.float32)))
    return model.eval()


def images(height, width):
    """Returns two made-up images, waves with noise, float32 ``[2, 3, height, width]``."""
    b, c, h, w = np.ogrid[:2, :3, :height, :width]
    noise = np.random.default_rng(height).normal(size=(2, 3, height, width))
    return (np.sin((0.03 + 0.02 * b) * h + (0.05 + 0.01 * c) * w + c) + 0.5 * noise).astype("f4")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arguments", type=json.loads, default={})
    parser.add_argument("--file-size", type=int)
    parsed = parser.parse_args()

    def build(**arguments):
        given = {**parsed.arguments, **arguments}
        return timm.create_model("beit_base_patch16_224", pretrained=False, **given)

    model = build()
    source = build(img_size=parsed.file_size) if parsed.file_size else model
    weights = randomize(source).state_dict()
    torch.save(weights, parsed.out / "weights.pth")
    if parsed.file_size:
        model.load_state_dict(checkpoint_filter_fn(weights, model))
        model.eval()
    size, stages = model.patch_embed.grid_size, {}
    for i, end in enumerate(len(model.blocks) * quarter // 4 for quarter in range(1, 5)):

        def keep(_module, _inputs, output, name=f"stage_{i}"):
            patches = output.detach().numpy()[:, 1:].transpose(0, 2, 1)
            stages[name] = patches.reshape(*patches.shape[:2], *size)

        model.blocks[end - 1].register_forward_hook(keep)
    pixels, labels = images(*model.patch_embed.img_size), np.array([3, 7])
    found = answers(model, pixels, labels)
    np.savez(
        parsed.out / "answers.npz",
        pixels=pixels,
        labels=labels,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        **found,
        **stages,
    )
