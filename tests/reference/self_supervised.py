"""Steps of MoCo's own code, and of SimCLR, MoCo and BYOL put together from lightly's parts.

GIVEN.npz holds ``image`` and ``image_1`` ``[steps, N, 3, H, W]`` and the state under
``weights/<name here>``. OUT.npz gets ``losses`` ``[steps]``, the gradients of the first step under
``gradient/<name>``, and the state after each step under ``<step>/<name>``; of MoCo's own code,
whose twin follows at the beginning of a step, the twin of before it.

    python tests/reference/self_supervised.py GIVEN.npz OUT.npz RECIPE.json [CHECKOUTS]

CHECKOUTS is a folder with a checkout of https://github.com/facebookresearch/moco (132aea9; the
branch ``main`` is empty since) called ``moco``; lightly 1.6.0 is installed.
"""

import argparse
import copy
import json
import math
import sys

import numpy as np
import torch
from small_resnet import SmallResNet
from torch import nn
from torch.nn import functional as F

EPSILON = 2**-20
RATE, MOMENTUM = 1 / 16, 7 / 8

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("given")
parser.add_argument("out")
parser.add_argument("recipe")
parser.add_argument("checkouts", nargs="?")
arguments = parser.parse_args()
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
with open(arguments.recipe) as file:
    recipe = json.load(file)
with np.load(arguments.given) as arrays:
    given = {key: torch.from_numpy(np.array(arrays[key])) for key in arrays}
weights = {
    key.partition("/")[2]: value for key, value in given.items() if key.startswith("weights/")
}
views = list(zip(given["image"], given["image_1"]))


def named(backbone, heads):
    """Returns the parameters under the names that they have here."""
    found = {f"backbone.{name}": p for name, p in backbone.named_parameters()}
    for head, layers in heads.items():
        for name, layer in layers.items():
            found.update({f"{head}.{name}.{key}": p for key, p in layer.named_parameters()})
    return found


def load(parameters, prefix=""):
    for name, parameter in parameters.items():
        value = weights[prefix + name]
        parameter.data = (value.T if "fcs" in name and value.ndim == 2 else value).clone()


def as_here(name, tensor):
    array = tensor.detach().numpy()
    return (array.T if "fcs" in name and array.ndim == 2 else array).copy()


out, losses = {}, []


def note(step, parameters, prefix=""):
    for name, parameter in parameters.items():
        out[f"{step}/{prefix}{name}"] = as_here(name, parameter)


def descend(optimizer, loss, parameters, step):
    optimizer.zero_grad()
    loss.backward()
    if step == 0:
        for name, parameter in parameters.items():
            out[f"gradient/{name}"] = as_here(name, parameter.grad)
    optimizer.step()
    losses.append(loss.item())
    note(step, parameters)


def sgd(parameters):
    return torch.optim.SGD(
        parameters.values(), lr=RATE, momentum=MOMENTUM, weight_decay=recipe["decay"]
    )


def their_moco():
    sys.path.insert(0, f"{arguments.checkouts}/moco")
    from moco.builder import MoCo

    class Encoder(SmallResNet):
        def __init__(self, num_classes):
            super().__init__((4, 8), EPSILON)
            self.fc = nn.Linear(8, num_classes)

        def forward(self, x):
            return self.fc(super().forward(x))

    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.distributed.init_process_group(
        "gloo", init_method="tcp://127.0.0.1:29555", rank=0, world_size=1
    )
    model = MoCo(Encoder, recipe["dim"], recipe["K"], recipe["m"], recipe["T"], recipe["mlp"])
    parts = {}
    for prefix, encoder in (("", model.encoder_q), ("twin.", model.encoder_k)):
        fc = encoder.fc
        layers = {"fcs.0": fc[0], "fcs.1": fc[2]} if recipe["mlp"] else {"fcs.0": fc}
        parts[prefix] = {
            name: p
            for name, p in named(encoder, {"projector": layers}).items()
            if not name.startswith("backbone.fc")
        }
        load(parts[prefix], prefix)
    model.queue.copy_(weights["queue.keys"].T)
    optimizer = sgd(parts[""])
    model.train()
    for step, (query, key) in enumerate(views):
        logits, labels = model(query, key)
        note(step, parts["twin."], "twin.")
        out[f"{step}/queue.keys"] = model.queue.numpy().T.copy()
        out[f"{step}/queue.pointer"] = model.queue_ptr.numpy().copy()
        descend(optimizer, F.cross_entropy(logits, labels), parts[""], step)


def head_layers(head, norms):
    """Returns lightly's layers by the names here: Linear, norm, ReLU, Linear, norm."""
    linears = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    layers = {f"fcs.{k}": layer for k, layer in enumerate(linears)}
    found = [layer for layer in head.layers if isinstance(layer, nn.BatchNorm1d)]
    assert len(found) == norms
    for k, layer in enumerate(found):
        layer.eps = EPSILON
        layers[f"norms.{k}"] = layer
    return layers


def lightly_parts():
    from lightly.loss import NegativeCosineSimilarity, NTXentLoss
    from lightly.models.modules import heads
    from lightly.models.utils import deactivate_requires_grad, update_momentum

    method, sizes = recipe["method"], (8, recipe["hidden"], recipe["dim"])
    backbone = SmallResNet((4, 8), EPSILON)
    projector, norms = {
        "SimCLR": (heads.SimCLRProjectionHead, 2),
        "MoCo": (heads.MoCoProjectionHead, 0),
        "BYOL": (heads.BYOLProjectionHead, 1),
    }[method]
    projector = projector(*sizes)
    layers = {"projector": head_layers(projector, norms)}
    if method == "BYOL":
        predictor = heads.BYOLPredictionHead(recipe["dim"], recipe["hidden"], recipe["dim"])
        layers["predictor"] = head_layers(predictor, 1)
    parameters = named(backbone, layers)
    load(parameters)
    twins = [copy.deepcopy(part) for part in (backbone, projector)]
    twin = named(twins[0], {"projector": head_layers(twins[1], norms)})
    for part in twins:
        deactivate_requires_grad(part)
    optimizer = sgd(parameters)
    bank = (recipe["K"], recipe["dim"]) if method == "MoCo" else 0
    contrastive = NTXentLoss(recipe.get("T", 0.5), bank)
    if method == "MoCo":
        contrastive.memory_bank.bank = weights["queue.keys"].clone()
        contrastive.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
    cosine = NegativeCosineSimilarity()
    for step, (one, two) in enumerate(views):
        if method == "SimCLR":
            z = projector(backbone(torch.cat([one, two])))
            loss = contrastive(*z.chunk(2))
        elif method == "MoCo":
            with torch.no_grad():
                keys = twins[1](twins[0](two))
            loss = contrastive(projector(backbone(one)), keys)
        else:
            p = [predictor(projector(backbone(x))) for x in (one, two)]
            with torch.no_grad():
                z = [twins[1](twins[0](x)) for x in (one, two)]
            loss = 0.5 * (cosine(p[0], z[1]) + cosine(p[1], z[0]))
        descend(optimizer, loss, parameters, step)
        if method != "SimCLR":
            m = recipe["m"]
            if method == "BYOL":
                m = 1 - (1 - m) * (math.cos(math.pi * step / recipe["total"]) + 1) / 2
            update_momentum(backbone, twins[0], m)
            update_momentum(projector, twins[1], m)
            note(step, twin, "twin.")
        if method == "MoCo":
            out[f"{step}/queue.keys"] = contrastive.memory_bank.bank.numpy().copy()


their_moco() if recipe["method"] == "authors" else lightly_parts()
np.savez(arguments.out, losses=np.array(losses), **out)
