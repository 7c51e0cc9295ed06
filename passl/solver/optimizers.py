"""The optimizers."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence

import paddle
from paddle import nn

from passl.solver.groups import ParameterGroup, undecayed_names
from passl.solver.optimizer import Optimizer
from passl.utils.errors import PasslError
from passl.utils.registry import Registry
from passl.utils.widened import widened

OPTIMIZERS = Registry("optimizer")

# All of them take, besides their own arguments, those of ``Optimizer``.
Groups = Sequence[Mapping[str, Any]]


@OPTIMIZERS.register
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2).

    A step subtracts ``learning_rate · weight_decay · parameter``, except from biases and norms.
    """

    def __init__(
        self,
        model: nn.Layer,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        grad_clip: Optional[float] = None,
        layer_decay: float = 1.0,
        groups: Groups = (),
    ):
        _check_adam(beta1, beta2, epsilon)
        self._arguments = {"beta1": beta1, "beta2": beta2, "epsilon": epsilon}
        super().__init__(model, weight_decay, grad_clip, layer_decay, groups)

    def make(self, groups: List[Dict[str, Any]]) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.AdamW(
            learning_rate=0.0, parameters=groups, weight_decay=0.0, **self._arguments
        )


@OPTIMIZERS.register
class LAMB(Optimizer):
    """Adam with a trust ratio for each parameter (You et al., arXiv 1904.00962, algorithm 2).

    A step subtracts ``learning_rate · |p| / |u| · u`` where ``u`` is Adam's step plus
    ``weight_decay · p``; φ of the paper is the identity. A parameter that does not decay is not
    adapted either: its step is Adam's.
    """

    def __init__(
        self,
        model: nn.Layer,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-6,
        weight_decay: float = 0.01,
        grad_clip: Optional[float] = None,
        layer_decay: float = 1.0,
        groups: Groups = (),
    ):
        _check_adam(beta1, beta2, epsilon)
        self._arguments = {"beta1": beta1, "beta2": beta2, "epsilon": epsilon}
        super().__init__(model, weight_decay, grad_clip, layer_decay, groups)

    def decay_arguments(self, group: ParameterGroup) -> Dict[str, Any]:
        # By Paddle's weight_decay it would be added to the gradient.
        return {"weight_decay": None, "lamb_weight_decay": group.weight_decay}

    def make(self, groups: List[Dict[str, Any]]) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.Lamb(learning_rate=0.0, parameters=groups, **self._arguments)


@OPTIMIZERS.register
class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    ``v ← momentum · v + g; p ← p - learning_rate · v``, and with ``nesterov``
    ``p ← p - learning_rate · (g + momentum · v)`` (Sutskever et al., ICML 2013, with the learning
    rate outside the velocity).

    Weight decay is the coupled kind, added to the gradient, and leaves biases and norms alone.
    """

    def __init__(
        self,
        model: nn.Layer,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        grad_clip: Optional[float] = None,
        layer_decay: float = 1.0,
        groups: Groups = (),
    ):
        _check_momentum(momentum)
        self._arguments = {"momentum": momentum, "use_nesterov": nesterov}
        super().__init__(model, weight_decay, grad_clip, layer_decay, groups)

    def make(self, groups: List[Dict[str, Any]]) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.Momentum(
            learning_rate=0.0, parameters=groups, weight_decay=None, **self._arguments
        )


@OPTIMIZERS.register
class LARS(Optimizer):
    """SGD with momentum whose rate is adapted to each parameter (You et al., arXiv 1708.03888).

    ``λ = trust_coefficient · |p| / (|g| + weight_decay · |p|)``, then ``v ← momentum · v +
    λ · (g + weight_decay · p); p ← p - learning_rate · v`` (algorithm 1, with the learning rate
    outside the velocity, as in PyTorch and MoCo v3). Biases, norms and what else never decays get
    plain momentum (SimCLR, arXiv 2002.05709, and BYOL do so too); also a parameter or gradient that
    is all zeros, and the groups that say ``adapt: false``.

    Args:
        joint_norm: ``λ = trust_coefficient · |p| / |g + weight_decay · p|``, as the code of SimCLR,
            BYOL and MoCo v3 has it. At their decay of 1e-6 both are equal to seven digits.
        rate_in_velocity: ``v ← momentum · v + learning_rate · λ · (g + weight_decay · p);
            p ← p - v``, as SimCLR's code has it. It differs where the rate changes: in a warm-up
            steps are longer without. A group's own ``lr`` does not change.
    """

    adapts = True

    def __init__(
        self,
        model: nn.Layer,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
        weight_decay: float = 0.0,
        joint_norm: bool = False,
        rate_in_velocity: bool = False,
        grad_clip: Optional[float] = None,
        layer_decay: float = 1.0,
        groups: Groups = (),
    ):
        _check_momentum(momentum)
        if trust_coefficient <= 0:
            raise PasslError(f"trust_coefficient is above 0, not {trust_coefficient}")
        self._momentum, self._trust = momentum, trust_coefficient
        self._joint_norm, self._rate_in_velocity = joint_norm, rate_in_velocity
        super().__init__(model, weight_decay, grad_clip, layer_decay, groups)
        plain = undecayed_names(model)
        self._decays = {n: group.weight_decay for group in self.groups for n in group.names}
        # Of a rate that stays the same both forms are equal: it stands outside of the velocity.
        self._constant = {n for group in self.groups if group.lr is not None for n in group.names}
        self._adapted = {
            name
            for group in self.groups
            for name in group.names
            if name not in plain and group.adapt
        }

    def decay_arguments(self, group: ParameterGroup) -> Dict[str, Any]:
        return {"weight_decay": None}  # it is part of the adapted gradient

    def make(self, groups: List[Dict[str, Any]]) -> paddle.optimizer.Optimizer:
        return paddle.optimizer.Momentum(
            learning_rate=0.0, momentum=self._momentum, parameters=groups, weight_decay=None
        )

    @paddle.no_grad()
    def adapt_gradients(self, learning_rate: float, finite: paddle.Tensor) -> float:
        weights = self.weights()
        for name, parameter in self._named:
            gradient, decay = parameter.grad, self._decays[name]
            adapts = name in self._adapted
            inside = self._rate_in_velocity and name not in self._constant
            if gradient is None or not (adapts or decay or inside):
                continue
            adapted = widened(gradient) + decay * widened(weights[name])
            if adapts:
                size, slope = (widened(t).norm() for t in (weights[name], gradient))
                total = adapted.norm() if self._joint_norm else slope + decay * size
                ratio = self._trust * size / total
                some = (size > 0) & (slope > 0)
                adapted = adapted * paddle.where(some, ratio, paddle.ones_like(ratio))
            # A skipped step adds nothing to the velocity, its decay neither.
            factor = learning_rate if inside else 1.0
            adapted = adapted * (factor * finite.astype(adapted.dtype))
            paddle.assign(adapted.astype(gradient.dtype), gradient)
        return 1.0 if self._rate_in_velocity else learning_rate


def _check_adam(beta1: float, beta2: float, epsilon: float) -> None:
    for name, value in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= value < 1:
            raise PasslError(f"{name} lies in [0, 1), not {value}")
    if epsilon <= 0:
        raise PasslError(f"epsilon is above 0, not {epsilon}")


def _check_momentum(momentum: float) -> None:
    if not 0 <= momentum < 1:
        raise PasslError(f"momentum lies in [0, 1), not {momentum}")
