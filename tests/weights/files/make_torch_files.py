"""Writes the small torch files of this folder; run once, with torch 2.13.0 and timm 1.0.31.

    python make_torch_files.py

Every number is a function of its place, so that tests can say what is in the files.
"""

import argparse
from pathlib import Path

import torch
from timm.models.mlp_mixer import MlpMixer

HERE = Path(__file__).resolve().parent


def numbers(shape):
    count = torch.Size(shape).numel()
    return torch.arange(count, dtype=torch.float32).reshape(shape) / 4 - 1


def save(value, name):
    torch.save(value, HERE / f"{name}.pth")
    torch.save(value, HERE / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)


def network():
    model = MlpMixer(
        img_size=8, patch_size=4, num_blocks=2, embed_dim=4, mlp_ratio=(0.5, 1.0), num_classes=3
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(numbers(parameter.shape))
    return model


def training(model):
    """What a training script keeps: the optimizer's state, its arguments, a history."""
    head = [model.head.weight, model.head.bias]
    optimizer = torch.optim.AdamW(head, lr=0.5)
    for parameter in head:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        "epoch": 3,
        "arch": "mixer",
        "state_dict": {f"module.{name}": t for name, t in model.head.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.5, device=torch.device("cpu"), dtype=torch.float16),
        "metric": 71.5,
    }


def kinds():
    """One tensor of every kind that is stored in a way of its own."""
    whole = numbers((4, 6))
    return {
        "half": numbers((2, 3)).half(),
        "bfloat16": numbers((2, 3)).bfloat16(),
        "double": numbers((2, 3)).double(),
        "long": torch.arange(4),
        "bool": torch.tensor([True, False, True]),
        "transposed": numbers((2, 3)).t(),
        "whole": whole,
        "view": whole[1:3, ::2],
        "row": whole[2],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(numbers((3,))),
    }


class Scripted(torch.nn.Module):
    """What TorchScript stores in ways of its own: modules in modules, settings, counters."""

    def __init__(self):
        super().__init__()
        self.size = 4
        self.sizes = [1, 2]
        self.inner = torch.nn.Sequential(
            torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 3)
        )
        whole = numbers((4, 6))
        self.view = torch.nn.Parameter(whole[1:3, ::2])
        self.turned = torch.nn.Parameter(numbers((2, 3)).t())
        self.register_buffer("resolution", torch.tensor(224))
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.5))
        self.mask: torch.Tensor = numbers((2, 2))
        with torch.no_grad():
            for tensor in [*self.inner.parameters(), *self.inner.buffers()]:
                tensor.copy_(numbers(tensor.shape))
            self.inner[2].half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner[1](self.inner[0](x)) * self.logit_scale + self.size + self.sizes[0]


if __name__ == "__main__":
    model = network()
    save(model.state_dict(), "state_dict")
    save(training(model), "training")
    save(kinds(), "kinds")
    torch.jit.save(
        torch.jit.script(Scripted().eval()), HERE / "scripted.pt", _extra_files={"x/data.pkl": "no"}
    )
