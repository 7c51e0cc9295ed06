"""Writes one of timm's Mixers with random parameters, and what it answers for photographs.

Into OUT: ``weights.<suffix>`` for every suffix asked for, and ``answers.npz`` with ``pixels``,
``logits``, ``block_0`` …, and ``parameters``, their number.

    python tests/reference/timm_mixer.py mixer_b16_224 OUT --photographs A.jpg B.jpg
"""

import argparse
from pathlib import Path

import numpy as np
import timm
import timm.data
from mixers import answers, randomize, save
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model")
parser.add_argument("out", type=Path)
parser.add_argument("--photographs", nargs="+", required=True)
parser.add_argument("--suffixes", nargs="+", default=["safetensors"])
arguments = parser.parse_args()

model = randomize(timm.create_model(arguments.model, num_classes=1000), seed=0)
view = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
pixels = np.stack([view(Image.open(path).convert("RGB")) for path in arguments.photographs])
for suffix in arguments.suffixes:
    save(model.state_dict(), arguments.out / f"weights.{suffix}")
np.savez(
    arguments.out / "answers.npz",
    pixels=pixels,
    parameters=sum(parameter.numel() for parameter in model.parameters()),
    **answers(model, pixels),
)
