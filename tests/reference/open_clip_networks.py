"""Networks of open_clip: features, loss and gradients of a state, and steps over batches.

GIVEN.npz holds the state under ``state/<name>`` and, for each of the batches, ``image``
``[steps, N, 3, H, W]`` and ``text`` ``[steps, N, L]``. OUT.npz gets ``image`` and ``text``, the
features of the first batch in evaluation mode, ``losses`` of each step, the gradients of the first
under ``gradient/<name>`` and the state after the last under ``state/<name>``.

    python tests/reference/open_clip_networks.py GIVEN.npz OUT.npz RECIPE.json

RECIPE.json: ``model``, a config of open_clip; ``dtype``; and AdamW's ``rate``, ``betas``,
``epsilon`` and ``decay``; ``norm_epsilon`` of all norms, and ``sigmoid`` for SigLIP's loss.
"""

import json
import math
import sys

import numpy as np
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from open_clip.model import CLIP

given = dict(np.load(sys.argv[1]))
with open(sys.argv[3], encoding="utf-8") as file:
    recipe = json.load(file)
dtype = getattr(torch, recipe["dtype"])
torch.set_default_dtype(dtype)
torch.set_num_threads(1)
network = CLIP(**recipe["model"]).to(dtype)
state = {n[6:]: torch.tensor(array) for n, array in given.items() if n.startswith("state/")}
state = {name: value.reshape(network.state_dict()[name].shape) for name, value in state.items()}
missing, unexpected = network.load_state_dict(state, strict=False)
assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing), missing
for layer in network.modules():
    if hasattr(layer, "eps") and "norm_epsilon" in recipe:
        layer.eps = recipe["norm_epsilon"]
        layer.momentum = 0.125  # of batch norms
batches = list(zip(torch.tensor(given["image"]), torch.tensor(given["text"])))
out = {}
network.eval()
with torch.no_grad():
    out["image"] = network.encode_image(batches[0][0]).numpy()
    out["text"] = network.encode_text(batches[0][1]).numpy()
network.train()
# open_clip_train/main.py: what does not decay
names = ("bn", "ln", "bias", "logit_scale")
parameters = dict(network.named_parameters())
left = [n for n, p in parameters.items() if p.ndim < 2 or any(part in n for part in names)]
optimizer = torch.optim.AdamW(
    [
        {"params": [parameters[n] for n in left], "weight_decay": 0.0},
        {
            "params": [p for n, p in parameters.items() if n not in left],
            "weight_decay": recipe["decay"],
        },
    ],
    lr=recipe["rate"],
    betas=recipe["betas"],
    eps=recipe["epsilon"],
)
measure = SigLipLoss() if recipe.get("sigmoid") else ClipLoss()
losses = []
for step, (image, text) in enumerate(batches):
    optimizer.zero_grad()
    images, texts, *scales = network(image, text)
    loss = measure(images, texts, *scales)
    loss.backward()
    losses.append(loss.item())
    if step == 0:
        out.update({f"gradient/{n}": p.grad.numpy().copy() for n, p in parameters.items()})
    optimizer.step()
    with torch.no_grad():
        network.logit_scale.clamp_(0, math.log(100))
out["losses"] = np.array(losses)
for name, value in network.state_dict().items():
    out[f"state/{name}"] = value.numpy()
np.savez(sys.argv[2], **out)
