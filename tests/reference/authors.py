"""The authors' own networks: CycleMLP, Vision Permutator and ConvMLP, run as they are.

What the scripts of this folder share. The authors' code is not carried here; CHECKOUTS is a
folder with checkouts of these repositories, each in a folder of its last name:

* https://github.com/ShoufaChen/CycleMLP (seen at 4e062a0)
* https://github.com/houqb/VisionPermutator (seen at 2cab2ce)
* https://github.com/SHI-Labs/Convolutional-MLPs (seen at 092bf71)

They were written for an older timm and torchvision: modules that have moved since get stand-ins,
and so has the deformable convolution, which torchvision has as compiled code only.
"""

import importlib
import re
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import timm.layers
import timm.models
import torch

# Repository -> (module of the networks, class).
CLASSES = {
    "CycleMLP": ("cycle_mlp", "CycleNet"),
    "VisionPermutator": ("models.vip", "VisionPermutator"),
    "Convolutional-MLPs": ("src.convmlp", "ConvMLP"),
}
# Names here -> (repository, function there).
NETWORKS = {
    **{f"cyclemlp_b{i}": ("CycleMLP", f"CycleMLP_B{i}") for i in range(1, 6)},
    **{f"vip_{size}7": ("VisionPermutator", f"vip_{size}7") for size in "sml"},
    **{f"convmlp_{size}": ("Convolutional-MLPs", f"convmlp_{size}") for size in "sml"},
}

# ReLU and max pooling have kinks, at which rounding decides what the gradient is: one value within
# 2e-7 of a kink was seen to make a spot of 11×13 pixels differ by 3 % of the largest. This is how
# near a value may come, in standard deviations of its layer.
NEAREST = 5e-7

# What is added to a sum along the network.
_ONTO_THE_SUM = re.compile(r"attn\.proj|mlp\.fc2|channel_mlp[12]\.fc2")
_STEM = re.compile(r"patch_embed")


def deform_conv2d(image, offset, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1)):
    """Stands in for torchvision's, where the kernel is one pixel and every channel has an offset.

    A channel is read at ``(y + dy, x + dx)``, between pixels bilinearly, as zeros outside.

    Args:
        image: ``[N, C, H, W]``.
        offset: ``[N, 2·C, H, W]``: dy and dx of channel 0, of channel 1, …
        weight: ``[C', C, 1, 1]``.
        bias: ``[C']``.
        stride, padding, dilation: those of a 1×1 convolution.
    """
    assert weight.shape[2:] == (1, 1) and tuple(stride) == (1, 1) and tuple(padding) == (0, 0)
    n, channels, height, width = image.shape
    offset = offset.reshape(n, channels, 2, height, width)
    y = torch.arange(height).reshape(-1, 1) + offset[:, :, 0]
    x = torch.arange(width) + offset[:, :, 1]
    flat, sampled = image.flatten(2), 0.0
    for corner_y in (y.floor(), y.floor() + 1):
        for corner_x in (x.floor(), x.floor() + 1):
            share = (1 - (y - corner_y).abs()) * (1 - (x - corner_x).abs())
            inside = (corner_y >= 0) & (corner_y < height) & (corner_x >= 0) & (corner_x < width)
            place = corner_y.clamp(0, height - 1) * width + corner_x.clamp(0, width - 1)
            pixels = flat.gather(2, place.long().flatten(2)).reshape(image.shape)
            sampled = sampled + pixels * share * inside
    return torch.nn.functional.conv2d(sampled, weight, bias)


def _check_deform_conv2d():
    """Compares the stand-in with the definition (Dai et al., arXiv 1703.06211), pixel by pixel."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 4, 5, generator=generator)
    offset = 2 * torch.randn(2, 6, 4, 5, generator=generator)
    offset[0] = offset[0].round()
    weight, bias = torch.randn(2, 3, 1, 1, generator=generator), torch.randn(2, generator=generator)
    found = deform_conv2d(image, offset, weight, bias)
    for n, y, x in np.ndindex(2, 4, 5):
        expected = bias.clone()
        for c in range(3):
            at_y, at_x = y + float(offset[n, 2 * c, y, x]), x + float(offset[n, 2 * c + 1, y, x])
            value = 0.0
            for q_y, q_x in np.ndindex(4, 5):
                value += (
                    max(0.0, 1 - abs(q_y - at_y))
                    * max(0.0, 1 - abs(q_x - at_x))
                    * float(image[n, c, q_y, q_x])
                )
            expected += weight[:, c, 0, 0] * value
        assert torch.allclose(found[n, :, y, x], expected, atol=1e-5)


def _module(name, **contents):
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module


def _stand_in():
    """Puts what has moved where the authors' code looks for it."""
    _check_deform_conv2d()
    warnings.filterwarnings("ignore", module="timm")
    layers = {name: getattr(timm.layers, name) for name in ("DropPath", "trunc_normal_")}
    _module("timm.models.layers", **layers)
    _module("timm.models.layers.helpers", to_2tuple=timm.layers.to_2tuple)
    # timm's own adds the networks to its list, and wants to know more of them than they say.
    _module("timm.models.registry", register_model=lambda function: function)
    _module("torchvision", __path__=[])
    _module("torchvision.ops", __path__=[])
    _module("torchvision.ops.deform_conv", deform_conv2d=deform_conv2d)


def load(checkouts, repository):
    """Returns the module with the networks of a repository, and their class."""
    folder = Path(checkouts) / repository
    assert folder.is_dir(), f"{folder}: a checkout of the authors' code is needed there"
    _stand_in()
    sys.path.insert(0, str(folder))
    name, network = CLASSES[repository]
    module = importlib.import_module(name)
    return module, getattr(module, network)


@torch.no_grad()
def randomize(model, seed):
    """Draws every parameter of a torch module, and running statistics: none is without effect.

    What goes onto the sum along the network is small, and the stem too, as it is then that the
    epsilon of the norms matters.
    """
    rng = np.random.default_rng(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point() or name.endswith("offset"):
            continue
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            values = rng.uniform(0.5, 1.5, shape)
        else:
            vector = tensor.ndim == 1
            deviation = 0.3 if vector else tensor[0].numel() ** -0.5
            if _ONTO_THE_SUM.search(name):
                deviation *= 0.3
            if _STEM.search(name):
                deviation *= 0.03
            if name.endswith("reweight.fc2.weight"):
                deviation *= 3  # so that the branches' weights are far from equal
            values = rng.standard_normal(shape) * deviation
        tensor.copy_(torch.from_numpy(values.astype(np.float32)))
    return model.eval()


@torch.no_grad()
def distance_to_kinks(model, pixels):
    """Returns how near any value comes to a kink; infinite where the network has none."""
    found = [np.inf]

    def look(module, inputs):
        x = inputs[0]
        if isinstance(module, torch.nn.ReLU):
            found.append(float(x.abs().min() / x.std()))
        else:  # between the largest two of a window, unless both are zeros that ReLU left
            side, step, edge = module.kernel_size[0], module.stride[0], module.padding[0]
            channels = x.flatten(0, 1)[:, None]
            windows = torch.nn.functional.unfold(channels, side, padding=edge, stride=step)
            largest = windows.topk(2, dim=1).values
            gaps = (largest[:, 0] - largest[:, 1])[largest[:, 0] > 0]
            found.append(float(gaps.min() / x.std()))

    kinked = (torch.nn.ReLU, torch.nn.MaxPool2d)
    hooks = [
        module.register_forward_pre_hook(look)
        for module in model.modules()
        if isinstance(module, kinked)
    ]
    model(torch.from_numpy(pixels))
    for hook in hooks:
        hook.remove()
    return min(found)


def answers(model, pixels, labels):
    """Returns the logits, and the gradient of the mean cross-entropy by the pixels."""
    image = torch.from_numpy(pixels).requires_grad_()
    logits = model(image)
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
    return {"logits": logits.detach().numpy(), "gradient": image.grad.numpy()}
