"""Writes a T2T-ViT of its authors with random weights, and what it answers for photographs.

Into OUT: ``weights.pth`` with a ``state_dict_ema``, as the released files have one, and
``answers.npz`` with ``pixels``, ``labels``, ``logits``, ``gradient`` (of the mean cross-entropy by
the pixels), ``block_0`` … (what each block gives) and ``parameters`` and ``learning``, how many
there are and learn. CHECKOUT: of https://github.com/yitu-opensource/T2T-ViT (seen at 0f63dc9).

    python tests/reference/t2t_vit_network.py t2t_vit_7 OUT --checkout CHECKOUT \
        --photographs A.jpg B.jpg
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from authors import answers, randomize
from PIL import Image

# Mean and standard deviation of ImageNet's colours; the crop is another test's matter.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def view(path, size):
    """Returns a photograph, float32 ``[1, 3, size, size]``."""
    with Image.open(path) as image:
        image = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    scaled = (np.asarray(image, np.float32) / 255 - MEAN) / STD
    return scaled.transpose(2, 0, 1).astype(np.float32)[None]


def build(checkout, name, size):
    """Returns a network, all of which is random but for what is fixed."""
    warnings.filterwarnings("ignore", module="timm")
    sys.path.insert(0, str(checkout))
    from models import t2t_vit

    torch.manual_seed(0)
    model = getattr(t2t_vit, name)(img_size=size)
    fixed = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    randomize(model, seed=0)
    with torch.no_grad():
        for n, values in fixed.items():
            model.get_parameter(n).copy_(values)
        for n, parameter in model.named_parameters():
            if "kqv" in n:  # queries and keys so small that the performers' features are not all 0
                parameter.mul_(0.25)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--checkout", required=True)
    parser.add_argument("--photographs", nargs="+", required=True)
    arguments = parser.parse_args()
    model = build(arguments.checkout, arguments.model, arguments.size)
    torch.save({"state_dict_ema": model.state_dict()}, arguments.out / "weights.pth")
    blocks = {}
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(
            lambda module, inputs, output, i=i: blocks.update({f"block_{i}": output.detach()})
        )
    pixels = np.concatenate([view(path, arguments.size) for path in arguments.photographs])
    labels = np.arange(len(pixels)) * 7 + 3
    found = answers(model, pixels, labels)
    np.savez(
        arguments.out / "answers.npz",
        pixels=pixels,
        labels=labels,
        parameters=sum(p.numel() for p in model.parameters()),
        learning=sum(p.numel() for p in model.parameters() if p.requires_grad),
        **{name: tensor.numpy() for name, tensor in blocks.items()},
        **found,
    )
