"""Writes a ResNet of torchvision or timm with random weights, and what it answers.

Into OUT: ``weights.pth``, a state_dict as torch saves it, and ``answers.npz``: ``parameters``,
their number, and for each of the sizes HEIGHTxWIDTH ``pixels``, ``labels``, ``logits``,
``gradient`` (of the mean cross-entropy by the pixels), ``stage_0`` and so on, behind the size and
an underscore. It computes in float64 with weights and pixels that float32 holds: rounding puts some
of a million numbers on the other side of a ReLU's corner, and gradients off by percents.

    python tests/reference/resnets.py torchvision resnet50 OUT --sizes 224x224 75x130
"""

import argparse
from pathlib import Path

import numpy as np
import torch


def build(library, name):
    """Returns the network of a library with its layer of 1,000 classes."""
    if library == "timm":
        import timm

        return timm.create_model(name, num_classes=1000)
    import torchvision

    return getattr(torchvision.models, name)()


@torch.no_grad()
def randomize(model):
    """Draws all parameters and running statistics; what is added to a shortcut is small."""
    rng = np.random.default_rng(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point():
            continue
        if tensor.ndim == 1 and name.endswith(("running_var", "weight")):
            values = rng.uniform(0.5, 1.5, shape)
        elif tensor.ndim == 1:
            values = rng.standard_normal(shape) * 0.3
        else:
            values = rng.standard_normal(shape) * (1.5 / tensor[0].numel()) ** 0.5
        tensor.copy_(torch.from_numpy(values))
    return model.eval()


def answers(model, size, rng):
    """Returns what the network answers for two images of height and width ``size``."""
    found = {}
    hooks = [
        getattr(model, f"layer{i + 1}").register_forward_hook(
            lambda module, inputs, output, name=f"stage_{i}": found.update({name: output})
        )
        for i in range(4)
    ]
    pixels = torch.from_numpy(rng.standard_normal((2, 3, *size)).astype(np.float32)).double()
    labels = torch.from_numpy(rng.integers(0, 1000, 2))
    pixels.requires_grad_(True)
    found["logits"] = model(pixels)
    torch.nn.functional.cross_entropy(found["logits"], labels).backward()
    for hook in hooks:
        hook.remove()
    arrays = {name: tensor.detach().numpy() for name, tensor in found.items()}
    return {
        "pixels": pixels.detach().numpy(), "labels": labels.numpy(),
        "gradient": pixels.grad.numpy(), **arrays,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", choices=["torchvision", "timm"])
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", nargs="+", required=True)
    arguments = parser.parse_args()
    network = randomize(build(arguments.package, arguments.model))
    torch.save(network.state_dict(), arguments.out / "weights.pth")
    network.double()
    rng = np.random.default_rng(1)
    results = {"parameters": sum(parameter.numel() for parameter in network.parameters())}
    for size in arguments.sizes:
        found = answers(network, [int(side) for side in size.split("x")], rng)
        results.update({f"{size}_{name}": array for name, array in found.items()})
    np.savez(arguments.out / "answers.npz", **results)
