"""Makes the files of tests/golden/ for ResMLP and gMLP: weights, and what timm answers with them.

Reduced networks with random parameters, built by timm, in which no two sizes are the same but those
of the square matrices across tokens. ``<network>.safetensors`` is in timm's names,
``resmlp.facebook.pth`` in those of ResMLP's authors; ``<network>.answers.npz`` holds ``pixels``, of
the photograph, ``logits``, ``block_<i>``, ``direction`` and ``gradient``.

    python tests/reference/make_golden_networks.py --photograph grace_hopper.jpg

The photograph is in the public domain (United States Navy); matplotlib carries it in its
sample_data. Run with Python 3.11, torch 2.13.0, timm 1.0.31, safetensors 0.8.0 and NumPy 2.4.6, on
a CPU.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mixers import answers, as_facebook, input_gradient, randomize, save
from PIL import Image
from timm.layers import GatedMlp
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock, SpatialGatingBlock

GOLDEN = Path(__file__).resolve().parent.parent / "golden"

HEIGHT, WIDTH, PATCH = 24, 40, 8  # 3×5 = 15 tokens

SIZES = {
    "num_classes": 7,
    "img_size": (HEIGHT, WIDTH),
    "patch_size": PATCH,
    "num_blocks": 3,
    "embed_dim": 20,
    "mlp_ratio": 2.4,  # 48
}
NETWORKS = {
    "resmlp": partial(MlpMixer, block_layer=ResBlock, norm_layer=Affine),
    "gmlp": partial(MlpMixer, block_layer=SpatialGatingBlock, mlp_layer=GatedMlp),
}
# The whole photograph, and the head alone.
BOXES = ((0, 0, 512, 600), (180, 60, 340, 220))


def view(photograph, box):
    """Returns float32 ``[3, HEIGHT, WIDTH]`` between -1 and 1."""
    small = photograph.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box)
    return (np.asarray(small, np.float32) / 127.5 - 1).transpose(2, 0, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photograph", required=True)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    image = Image.open(arguments.photograph).convert("RGB")
    pixels = np.ascontiguousarray(np.stack([view(image, box) for box in BOXES]))
    for name in arguments.networks:
        model = randomize(NETWORKS[name](**SIZES), seed=0)
        save(model.state_dict(), GOLDEN / f"{name}.safetensors")
        if name == "resmlp":
            save(as_facebook(model.state_dict()), GOLDEN / "resmlp.facebook.pth")
        gradient = input_gradient(model, pixels)
        found = {"pixels": pixels, **gradient, **answers(model, pixels)}
        np.savez(GOLDEN / f"{name}.answers.npz", **found)
    for path in sorted(GOLDEN.iterdir()):
        print(f"{path.stat().st_size:8d} {path.name}")
