"""Writes one of timm's ResMLPs or gMLPs with random parameters, and what it answers.

Into OUT: ``weights.safetensors`` in timm's names, for a ResMLP also ``facebook.pth`` in those of
its authors, and ``answers.npz`` with ``pixels`` of photographs, ``logits``, ``block_0`` …,
``parameters``, their number, ``direction`` and ``gradient``.

    python tests/reference/timm_networks.py resmlp_12_224 OUT --photographs A.jpg B.jpg
"""

import argparse
from pathlib import Path

import numpy as np
import timm
import timm.data
from mixers import answers, as_facebook, input_gradient, randomize, save
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model")
parser.add_argument("out", type=Path)
parser.add_argument("--photographs", nargs="+", required=True)
arguments = parser.parse_args()

model = randomize(timm.create_model(arguments.model, num_classes=1000), seed=0)
view = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
pixels = np.stack([view(Image.open(path).convert("RGB")) for path in arguments.photographs])
save(model.state_dict(), arguments.out / "weights.safetensors")
if arguments.model.startswith("resmlp"):
    save(as_facebook(model.state_dict()), arguments.out / "facebook.pth")
gradient = input_gradient(model, pixels)
np.savez(
    arguments.out / "answers.npz",
    pixels=pixels,
    parameters=sum(parameter.numel() for parameter in model.parameters()),
    **gradient,
    **answers(model, pixels),
)
