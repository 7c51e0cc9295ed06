"""A network with parameters of every kind, and steps whose gradients are known."""

import math

import numpy as np
import paddle
from paddle import nn


class Network(nn.Layer):
    """Matrices, biases, norms, a table that never decays, frozen ones; two layers deep."""

    def __init__(self):
        super().__init__()
        self.body = Body()
        self.last = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2)
        for parameter in self.frozen.parameters():
            parameter.stop_gradient = True


class Body(nn.Layer):
    no_weight_decay = frozenset({"position"})
    parameter_depths = {
        "first.weight": 0, "first.bias": 0, "norm.weight": 1, "norm.bias": 1, "position": 0,
        "scale": 1,
    }  # fmt: skip

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.position = self.create_parameter([2, 3])
        self.scale = self.create_parameter([2, 3])


DECAYED = {"body.first.weight", "last.weight", "body.scale"}
UNDECAYED = {
    "body.first.bias", "body.norm.weight", "body.norm.bias", "body.position", "last.bias",
}  # fmt: skip


def make_network(seed=0, dtype="float32"):
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    network = Network()
    paddle.set_default_dtype(before)
    rng = np.random.default_rng(seed)
    for parameter in network.parameters():
        parameter.set_value(rng.normal(size=parameter.shape).astype(dtype))
    return network


def values(network):
    return {name: p.numpy().copy() for name, p in network.named_parameters()}


def gradients_of_step(network, step, dtype="float32"):
    rng = np.random.default_rng([7, step])
    return {
        name: rng.normal(0, 1 + step % 3, p.shape).astype(dtype)
        for name, p in network.named_parameters()
        if not p.stop_gradient
    }


def take_steps(network, optimizer, steps, rates=None, dtype="float32"):
    """Optimizer steps with gradients that are known: of a loss linear in the parameters."""
    for step in steps:
        gradients = gradients_of_step(network, step, dtype)
        parameters = dict(network.named_parameters())
        loss = sum((parameters[n] * paddle.to_tensor(g)).sum() for n, g in gradients.items())
        loss.backward()
        optimizer.step(rates[step] if rates else 0.05)


def clipped(gradients, norm):
    total = math.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
    scale = 1.0 if norm is None else min(1.0, norm / total)
    return {name: g.astype(np.float64) * scale for name, g in gradients.items()}
