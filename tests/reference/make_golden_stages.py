"""Makes the files of tests/golden/ for networks whose authors alone have released code.

Of each a reduced one, in which no two sizes are the same, with random weights: ``NAME.pth`` is its
state_dict as torch saves it, ``NAME_answers.npz`` holds ``pixels`` (two views of a photograph,
uint8), ``labels``, ``logits``, ``gradient`` (see authors.py) and ``stage_<i>``, what the stages
give.

    python tests/reference/make_golden_stages.py --checkouts CHECKOUTS --photograph grace_hopper.jpg

The photograph is that of matplotlib's sample data, of the United States Navy and in the public
domain. Run with Python 3.11, torch 2.13.0, timm 1.0.31, NumPy 2.4.6 and Pillow 13.0.0 on a CPU.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from authors import answers, distance_to_kinks, load, randomize
from PIL import Image

GOLDEN = Path(__file__).resolve().parent.parent / "golden"

# name -> repository, height and width of the images, arguments, and the modules that give what a
# stage does, or, where it is a convolution, take it.
NETWORKS = {
    "cyclemlp": (
        "CycleMLP",
        (48, 40),
        {
            "layers": [1, 2, 1, 1],
            "embed_dims": [8, 12, 16, 20],
            "transitions": [True] * 4,
            "mlp_ratios": [3, 2, 2, 2],
            "num_classes": 7,
        },
        lambda model: [model.network[i] for i in (0, 2, 4, 6)],
    ),
    "vip": (
        "VisionPermutator",
        (56, 56),  # 8×8 tokens, then 4×4
        {
            "layers": [1, 1, 2],
            "patch_size": 7,
            "embed_dims": [16, 24, 20],
            "transitions": [False, True, False],
            "segment_dim": [8, 8, 4],
            "mlp_ratios": [3, 3, 3],
            "num_classes": 7,
        },
        lambda model: [],
    ),
    "convmlp": (
        "Convolutional-MLPs",
        (48, 40),
        {
            "channels": 8,
            "n_conv_blocks": 2,
            "blocks": [1, 2, 1],
            "dims": [12, 16, 20],
            "mlp_ratios": [1, 3, 2],
            "num_classes": 7,
        },
        lambda model: [model.conv_stages.downsample, *(s.blocks[-1] for s in model.stages)],
    ),
}


def views(path, height, width):
    """Returns two views of a photograph, uint8 ``[2, height, width, 3]``."""
    with Image.open(path) as image:
        image = image.convert("RGB")
        boxes = ((0, 0, image.width, image.height), (150, 60, 400, 300))
        size = (width, height)
        cut = [image.resize(size, Image.Resampling.BICUBIC, box=box) for box in boxes]
    return np.stack([np.asarray(view) for view in cut])


def make(name, checkouts, photograph):
    repository, size, arguments, stages_of = NETWORKS[name]
    _, network = load(checkouts, repository)
    pixels, labels = views(photograph, *size), np.array([3, 5])
    normalized = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    for seed in itertools.count(1):
        model = randomize(network(**arguments), seed)
        if distance_to_kinks(model, normalized) > 1e-5:
            break
    torch.save(model.state_dict(), GOLDEN / f"{name}.pth")
    found = {}
    for i, stage in enumerate(stages_of(model)):

        def keep(module, inputs, output, key=f"stage_{i}"):
            taken = isinstance(module, torch.nn.Conv2d)
            map_ = inputs[0].permute(0, 2, 3, 1) if taken else output
            found[key] = map_.detach().numpy()  # [N, H, W, C]

        stage.register_forward_hook(keep)
    found = {**answers(model, normalized, labels), **found}
    written = GOLDEN / f"{name}_answers.npz"
    np.savez_compressed(written, pixels=pixels, labels=labels, **found)
    for path in (GOLDEN / f"{name}.pth", written):
        print(f"{path.stat().st_size:8d} {path.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--checkouts", required=True)
    parser.add_argument("--photograph", required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for chosen in given.names:
        make(chosen, given.checkouts, given.photograph)
