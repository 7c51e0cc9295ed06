"""A second network that follows the first: a momentum encoder, a target network."""

from __future__ import annotations

import copy
import math
from typing import Any, Dict, Mapping

import paddle
from paddle import nn


class MomentumTwin(nn.Layer):
    """A copy of some networks, run one after the other, whose weights are a moving average.

    It never learns: its parameters need no gradient. Their average is taken over parameters alone;
    the running statistics of its batch norms are its own, and nobody reads them, because it stays
    in training mode. It keeps float32 where the network has 16 bits, since 1 - m of a difference
    would be lost in those.

    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", arXiv
    1911.05722, section 3.2; Tarvainen and Valpola, "Mean teachers are better role models", arXiv
    1703.01780.

    Args:
        **networks: of the network it follows, in the order in which they are run, by the names that
            they have there (``backbone``, ``projector``).

    Shape:
        as of the networks, one behind the other.
    """

    def __init__(self, **networks: nn.Layer):
        super().__init__()
        self._order = list(networks)
        for name, network in networks.items():
            setattr(self, name, copy.deepcopy(network))
        for parameter in self.parameters():
            parameter.stop_gradient = True

    def forward(self, x):
        for name in self._order:
            x = getattr(self, name)(x)
        return x

    @paddle.no_grad()
    def update(self, weights: Mapping[str, paddle.Tensor], m: float, finite: paddle.Tensor) -> None:
        """Sets each parameter to ``m · own + (1 - m) · weight``.

        Args:
            weights: by the names of the network it follows; see ``Architecture.after_step``.
            m: share that stays, in [0, 1].
            finite: whether the step was made, bool ``[]``; if not, nothing changes.
        """
        shares: Dict[Any, paddle.Tensor] = {}  # by dtype, so that few small operations are launched
        for name, own in self.named_parameters():
            if name in weights:  # what is frozen there stays as it is here
                weight = weights[name].astype(own.dtype)
                if own.dtype not in shares:
                    shares[own.dtype] = (1.0 - m) * finite.astype(own.dtype)
                paddle.assign(own + shares[own.dtype] * (weight - own), own)

    @paddle.no_grad()
    def follow(self, network: nn.Layer) -> None:
        """Becomes a copy of the network again, running statistics included."""
        state = network.state_dict()
        for name, own in self.state_dict().items():
            paddle.assign(state[name].astype(own.dtype), own)


def cosine_momentum(base: float, step: int, total_steps: int) -> float:
    """Returns the share m that stays at a step, rising from ``base`` to 1 along half a cosine.

    ``1 - (1 - base) · (cos(π · step / total_steps) + 1) / 2``: Grill et al., "Bootstrap Your Own
    Latent", arXiv 2006.07733, section 3.3 (τ there). A function of the step, so that nothing is
    counted that an interruption could lose.

    Args:
        base: m of step 0.
        step: from 0.
        total_steps: of the run.
    """
    return 1.0 - (1.0 - base) * (math.cos(math.pi * step / total_steps) + 1.0) / 2.0
