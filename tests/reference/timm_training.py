"""Trains a reduced Mixer of timm's with PyTorch, from weights, batches and a recipe that are given.

IN.npz holds ``images`` ``[steps, N, 3, H, W]``, ``labels`` and ``partners`` ``[steps, N]``,
``shares`` ``[steps, N]`` (of the partners), ``rates`` ``[steps]``, and parameters under
``weights/<timm's name>``. OUT.npz gets ``losses`` and ``norms`` ``[steps]`` (of the gradients,
before they are clipped), and the parameters after the last step.

    python tests/reference/timm_training.py IN.npz OUT.npz RECIPE.json
"""

import argparse
import json

import numpy as np
import timm.models.mlp_mixer
import timm.optim
import torch

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("given")
parser.add_argument("out")
parser.add_argument("recipe", help="JSON: network, dtype, optimizer, weight_decay, grad_clip, loss")
arguments = parser.parse_args()
with open(arguments.recipe) as file:
    recipe = json.load(file)
with np.load(arguments.given) as arrays:
    given = dict(arrays)

dtype = getattr(torch, recipe["dtype"])
torch.set_default_dtype(dtype)
torch.manual_seed(0)
model = timm.models.mlp_mixer.MlpMixer(**recipe["network"])
state = {
    key.partition("/")[2]: torch.from_numpy(value).to(dtype)
    for key, value in given.items()
    if key.startswith("weights/")
}
model.load_state_dict(state)
model.train()

kernels = [p for p in model.parameters() if p.ndim > 1]
others = [p for p in model.parameters() if p.ndim <= 1]
groups = [
    {"params": kernels, "weight_decay": recipe["weight_decay"]},
    {"params": others, "weight_decay": 0.0},
]
optimizer = {
    "AdamW": lambda: torch.optim.AdamW(groups, lr=0.0),
    "SGD": lambda: torch.optim.SGD(groups, lr=0.0, momentum=0.9),
    # timm's own clipping by the global norm is a second one; ours stands outside.
    "LAMB": lambda: timm.optim.Lamb(groups, lr=0.0, max_grad_norm=None),
}[recipe["optimizer"]]()


def loss_of(logits, target):
    if recipe["loss"] == "sigmoid":
        elements = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, target, reduction="none"
        )
        return elements.sum(-1).mean()
    return -(target * torch.log_softmax(logits, -1)).sum(-1).mean()


losses, norms = [], []
for step, rate in enumerate(given["rates"]):
    image = torch.from_numpy(given["images"][step]).to(dtype)
    labels, partners = (torch.from_numpy(given[key][step]) for key in ("labels", "partners"))
    share = torch.from_numpy(given["shares"][step]).to(dtype)
    w = share.reshape(-1, 1, 1, 1)
    # Who is mixed with whom is given as places in the batch.
    image = image * (1 - w) + image[partners] * w
    classes = model.num_classes
    one_hot = torch.nn.functional.one_hot
    target = one_hot(labels, classes).to(dtype) * (1 - share[:, None])
    target = target + one_hot(labels[partners], classes).to(dtype) * share[:, None]
    loss = loss_of(model(image), target)
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["grad_clip"])
    for group in optimizer.param_groups:
        group["lr"] = float(rate)
    optimizer.step()
    losses.append(loss.item())
    norms.append(norm.item())
after = {name: p.detach().numpy() for name, p in model.named_parameters()}
np.savez(arguments.out, losses=losses, norms=norms, **after)
