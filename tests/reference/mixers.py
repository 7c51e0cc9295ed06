"""Random networks of timm, their answers, and the files that torch writes.

What the scripts of this folder share. They are run by an interpreter of their own, which has what
the extra ``reference`` in setup.py names: torch and Paddle do not get on in one process.
"""

import re

import numpy as np
import safetensors.torch
import torch

# The layers whose outputs are summed up along the network, in timm's names and Google's.
ONTO_THE_SUM = re.compile(r"stem|fc2|Dense_1")

# ResMLP's parameters that are no layer's weight or bias.
SCALE, SHIFT, LAYER_SCALE = (re.compile(rf"\.{name}$") for name in ("alpha", "beta", r"ls\d"))


def draw(rng, name, shape, fan_in):
    """Returns float32 values for a parameter, none of which is without effect.

    What is summed up along the network is small, about 0.03, as it is then that the epsilon of
    the norms matters: 1e-5 instead of 1e-6 changes the answers by several thousandths.

    Args:
        rng: a NumPy generator.
        name: of the parameter, which says what it is.
        shape: of the parameter; a scale of a norm and a bias have one axis.
        fan_in: of a weight.
    """
    if LAYER_SCALE.search(name):  # so that the sum does not grow too much along 36 blocks
        return rng.uniform(0.1, 0.4, shape).astype(np.float32)
    if SCALE.search(name):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if SHIFT.search(name):
        return rng.standard_normal(shape, np.float32) * np.float32(0.3)
    bias = name.endswith("bias")
    if len(shape) == 1 and not bias:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    deviation = 0.3 if bias else fan_in**-0.5
    if ONTO_THE_SUM.search(name):
        deviation *= 0.03
    return rng.standard_normal(shape, np.float32) * np.float32(deviation)


@torch.no_grad()
def randomize(model, seed):
    """Draws every parameter of a torch module: the head, norms and biases too."""
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        values = draw(rng, name, tuple(parameter.shape), parameter[0].numel())
        parameter.copy_(torch.from_numpy(values))
    for name, _ in list(model.named_modules()):
        if name.endswith(".gate"):  # a small input, so that the epsilon of its norm matters too
            fc1 = model.get_submodule(name[: -len("gate")] + "fc1")
            fc1.weight.mul_(0.05)
            fc1.bias.mul_(0.05)
    return model.eval()


@torch.inference_mode()
def answers(model, pixels):
    """Returns the logits, and what every block gives, by forward hooks, as NumPy arrays."""
    found = {}
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(
            lambda module, inputs, output, name=f"block_{i}": found.update({name: output.numpy()})
        )
    found["logits"] = model(torch.from_numpy(pixels)).numpy()
    return found


def input_gradient(model, pixels):
    """Returns a random direction among the logits, and the gradient of the logits along it.

    The gradient is with respect to the pixels.
    """
    images = torch.from_numpy(pixels).requires_grad_()
    logits = model(images)
    direction = np.random.default_rng(3).standard_normal(tuple(logits.shape), np.float32)
    (logits * torch.from_numpy(direction)).sum().backward()
    return {"direction": direction, "gradient": images.grad.numpy()}


def as_facebook(state):
    """Returns the tensors of timm's ResMLP under the names of facebookresearch/deit.

    The reverse of ``checkpoint_filter_fn`` in timm/models/mlp_mixer.py.
    """
    renamed = {}
    for name, tensor in state.items():
        for timms, authors in (
            ("stem.", "patch_embed."),
            ("linear_tokens.", "attn."),
            ("mlp_channels.", "mlp."),
            (".ls", ".gamma_"),
        ):
            name = name.replace(timms, authors)
        vector = name.endswith((".alpha", ".beta"))
        renamed[name] = tensor.reshape(-1).clone() if vector else tensor
    return renamed


def save(state, path):
    """Writes tensors as the suffix of ``path`` says.

    ``.safetensors``; ``.legacy.pth``, torch's format before 1.6, which mmpretrain's releases
    still have; any other suffix (``.pth``, ``.bin``) is torch's zip.
    """
    if path.name.endswith(".safetensors"):
        safetensors.torch.save_file(state, str(path))
    else:
        new = not path.name.endswith(".legacy.pth")
        torch.save(state, path, _use_new_zipfile_serialization=new)
