"""Writes one of the authors' networks with random weights, and what it answers for photographs.

Into OUT: ``weights.pth``, a state_dict as torch saves it, and ``answers.npz`` with ``pixels``,
``labels``, ``logits``, ``gradient`` (of the mean cross-entropy by the pixels) and ``parameters``,
their number. CHECKOUTS: see authors.py.

    python tests/reference/authors_network.py cyclemlp_b1 OUT --checkouts CHECKOUTS \
        --photographs A.jpg B.jpg
    python tests/reference/authors_network.py all --checkouts CHECKOUTS    # parameters of each
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from authors import NEAREST, NETWORKS, answers, distance_to_kinks, load, randomize
from PIL import Image

# Mean and standard deviation of ImageNet's colours; the crop is another test's matter.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def view(path, left):
    """Returns a photograph without its first columns, float32 ``[1, 3, 224, 224]``."""
    with Image.open(path) as image:
        box = (left, 0, image.width, image.height)
        image = image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC, box=box)
    scaled = (np.asarray(image, np.float32) / 255 - MEAN) / STD
    return scaled.transpose(2, 0, 1).astype(np.float32)[None]


def pixels_of(path, model):
    """Returns the first view of a photograph that is far enough from all kinks."""
    for left in range(100):
        pixels = view(path, left)
        if distance_to_kinks(model, pixels) > NEAREST:
            return pixels
    raise AssertionError(f"{path}: every view comes too near to a kink")


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=[*NETWORKS, "all"])
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--checkouts", required=True)
    parser.add_argument("--photographs", nargs="*", default=[])
    arguments = parser.parse_args()
    if arguments.model == "all":
        for name, (repository, function) in NETWORKS.items():
            module, _ = load(arguments.checkouts, repository)
            print(name, count(getattr(module, function)()))
    else:
        repository, function = NETWORKS[arguments.model]
        module, _ = load(arguments.checkouts, repository)
        model = randomize(getattr(module, function)(), seed=0)
        torch.save(model.state_dict(), arguments.out / "weights.pth")
        pixels = np.concatenate([pixels_of(path, model) for path in arguments.photographs])
        labels = np.arange(len(pixels)) * 7 + 3
        np.savez(
            arguments.out / "answers.npz",
            pixels=pixels,
            labels=labels,
            parameters=count(model),
            **answers(model, pixels, labels),
        )
