"""Writes CvT as its authors wrote it, with random weights, and what it answers for made-up images.

Into OUT: ``weights.pth``, a state_dict as torch saves it, and ``answers.npz``: ``parameters``,
their number, and for each of the sizes HEIGHTxWIDTH ``pixels``, ``labels``, ``logits``,
``gradient`` (of the mean cross-entropy by the pixels), ``stage_0`` and so on, behind the size and
an underscore. CHECKOUTS is a folder with a checkout of https://github.com/microsoft/CvT (seen at
f851e68) called CvT.

    python tests/reference/cvt.py cvt_13 OUT --checkouts CHECKOUTS --sizes 224x224 96x160
"""

import argparse
import collections.abc
import functools
import importlib
import sys
import types
from pathlib import Path

import numpy as np
import torch
import yaml
from authors import answers

# Names here -> settings there.
SETTINGS = {
    "cvt_13": "cvt-13-224x224",
    "cvt_21": "cvt-21-224x224",
    "cvt_w24": "cvt-w24-384x384",
}


def build(checkouts, name):
    """Returns the authors' network, with stand-ins for what has gone since and is not used here."""
    folder = Path(checkouts) / "CvT"
    assert folder.is_dir(), f"{folder}: a checkout of the authors' code is needed there"
    gone = {
        "torch._six": {"container_abcs": collections.abc, "inf": float("inf")},
        "scipy": {},
    }
    before = {module: sys.modules.get(module) for module in gone}
    for module, contents in gone.items():
        sys.modules[module] = types.ModuleType(module)
        sys.modules[module].__dict__.update(contents)
    sys.path.insert(0, str(folder / "lib"))
    module = importlib.import_module("models.cls_cvt")
    for name_before, value in before.items():
        del sys.modules[name_before]
        if value is not None:
            sys.modules[name_before] = value
    settings = folder / "experiments" / "imagenet" / "cvt" / f"{SETTINGS[name]}.yaml"
    return module.ConvolutionalVisionTransformer(
        act_layer=module.QuickGELU,
        norm_layer=functools.partial(module.LayerNorm, eps=1e-5),
        spec=yaml.safe_load(settings.read_text())["MODEL"]["SPEC"],
    )


@torch.no_grad()
def randomize(model):
    """Draws every parameter, and running statistics, so that none is without effect.

    What goes onto the sum along the network is small, and the first embedding too, as it is then
    that the epsilon of the norms matters.
    """
    rng = np.random.default_rng(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            values = rng.uniform(0.5, 1.5, shape)
        elif tensor.ndim == 1 or name.endswith("cls_token"):
            values = rng.standard_normal(shape) * 0.3
        else:
            values = rng.standard_normal(shape) * tensor[0].numel() ** -0.5
        if name.endswith(("attn.proj.weight", "mlp.fc2.weight")):
            values = values * 0.5
        if name.startswith("stage0.patch_embed.proj"):
            values = values * 0.03
        tensor.copy_(torch.from_numpy(values.astype(np.float32)))
    return model.eval()


def images(height, width):
    """Returns two made-up images, waves with noise, float32 ``[2, 3, height, width]``."""
    b, c, h, w = np.ogrid[:2, :3, :height, :width]
    noise = np.random.default_rng(height).normal(size=(2, 3, height, width))
    waves = np.sin((0.03 + 0.02 * b) * h + (0.05 + 0.01 * c) * w + c)
    return (waves + 0.5 * noise).astype(np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=SETTINGS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkouts", required=True)
    parser.add_argument("--sizes", nargs="+", default=["224x224"])
    arguments = parser.parse_args()
    model = randomize(build(arguments.checkouts, arguments.model))
    torch.save(model.state_dict(), arguments.out / "weights.pth")
    found = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    stages = {}
    for i in range(model.num_stages):

        def keep(_module, _inputs, output, name=f"stage_{i}"):
            stages[name] = output[0].detach().numpy()

        getattr(model, f"stage{i}").register_forward_hook(keep)
    for size in arguments.sizes:
        pixels, labels = images(*map(int, size.split("x"))), np.array([3, 7])
        for name, value in {
            "pixels": pixels,
            "labels": labels,
            **answers(model, pixels, labels),
            **stages,
        }.items():
            found[f"{size}_{name}"] = value
    np.savez(arguments.out / "answers.npz", **found)
