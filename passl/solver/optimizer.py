"""One of Paddle's optimizers with parameter groups, clipping and state under real names."""

from __future__ import annotations

import functools
import math
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import _C_ops, nn

from passl.solver.groups import ParameterGroup, parameter_groups, trainable_parameters
from passl.solver.loss_scaling import LossScaling, by_dtype
from passl.solver.master_weights import MasterWeights, narrow
from passl.utils.arrays import own_array
from passl.utils.errors import PasslError
from passl.utils.widened import widened

_LOSS_SCALING = "loss_scaling"  # among the names of parameters in the state


class Optimizer:
    """One of Paddle's optimizers, as the engine uses it.

    Args:
        model: the network; its parameter names are those of the state.
        weight_decay, layer_decay, groups: see ``parameter_groups``.
        grad_clip: largest global L2 norm of all gradients together; None does not clip.

    Attributes:
        groups: its parameters, by how they are treated.
        masters: the float32 weights of those that hold 16 bits.
        adapts: whether it adapts its rate to parameters, so that a group can say ``adapt: false``.
    """

    adapts = False

    def __init__(
        self,
        model: nn.Layer,
        weight_decay: float,
        grad_clip: Optional[float],
        layer_decay: float,
        groups: Sequence[Mapping[str, Any]],
    ):
        if grad_clip is not None and not 0 < grad_clip < math.inf:
            raise PasslError(f"grad_clip is a norm above 0, or null; not {grad_clip}")
        self._named = trainable_parameters(model)
        self.groups = parameter_groups(model, weight_decay, layer_decay, groups)
        if not self.adapts and not all(group.adapt for group in self.groups):
            raise PasslError(
                f"{type(self).__name__} adapts its rate to no parameter, so that a group cannot "
                "say adapt: false; leave it out"
            )
        parameters = dict(self._named)
        # Rates of their own cannot be factors of one that may be zero: then each has its rate.
        self._rates: Dict[str, Tuple[Optional[float], float]] = {}
        if any(group.lr is not None for group in self.groups):
            self._rates = {
                n: (group.lr, group.lr_scale) for group in self.groups for n in group.names
            }
        self._optimizer = self.make(
            [
                {
                    "params": [parameters[name] for name in group.names],
                    "learning_rate": group.lr_scale,
                    **self.decay_arguments(group),
                }
                for group in self.groups
            ]
        )
        _keep_in_their_places(self._optimizer)
        # Paddle 2.6 forgets a restored state until the first step has used it.
        self._restored: Optional[Dict[str, np.ndarray]] = None
        self.grad_clip = grad_clip
        self.loss_scaling = LossScaling()
        self.masters = MasterWeights({}, {})
        # Where several processes share the state out; set by the engine.
        self.shards: Any = None

    def make(self, groups: List[Dict[str, Any]]) -> paddle.optimizer.Optimizer:
        """Returns Paddle's optimizer over its own kind of parameter groups."""
        raise NotImplementedError

    def decay_arguments(self, group: ParameterGroup) -> Dict[str, Any]:
        """Returns what tells Paddle's optimizer of a group's weight decay."""
        return {"weight_decay": group.weight_decay}

    def adapt_gradients(self, learning_rate: float, finite: paddle.Tensor) -> float:
        """Changes the gradients between clipping and the update; does nothing by itself.

        Args:
            learning_rate: of the step.
            finite: whether the step is made, bool ``[]``; if not, all gradients are zero.

        Returns:
            the learning rate to update with.
        """
        return learning_rate

    def _give_rates(self, learning_rate: float) -> float:
        """Gives each parameter its own rate, where some have one; returns the rate for all."""
        if not self._rates:
            return learning_rate
        for name, parameter in self._named:
            own, scale = self._rates[name]
            rate = learning_rate * scale if own is None else own
            parameter.optimize_attr["learning_rate"] = rate
        return 1.0

    @property
    def paddle(self) -> paddle.optimizer.Optimizer:
        """Paddle's optimizer."""
        return self._optimizer

    def weights(self) -> Dict[str, paddle.Tensor]:
        """Returns the weights that steps are made on: float32 where the network has 16 bits."""
        return {**dict(self._named), **self.masters.weights}

    def narrow(self, names: Collection[str], dtype: str) -> None:
        """Rounds parameters to 16 bits; steps are made on what they were, in float32.

        Args:
            names: of the network.
            dtype: ``float16`` or ``bfloat16``.
        """
        parameters = {name: p for name, p in self._named if name in names}
        weights = {name: p.detach().clone() for name, p in parameters.items()}
        for parameter in parameters.values():
            narrow(parameter, dtype)
        self.masters = MasterWeights(parameters, weights)

    def gradient_norm(self) -> paddle.Tensor:
        """Returns the L2 norm of all gradients together, float64 ``[1]``, on the device.

        As a step would have them: exchanged among the processes, without the loss scale, and before
        clipping. It may not be finite.
        """
        norm = _norm(self._gradients()) / self.loss_scaling.scale.astype("float64")
        if self.shards is not None:  # each has the sums of all processes, of its own parameters
            norm = self.shards.sum(norm.square()).sqrt() / self.shards.size
        return norm

    def step(self, learning_rate: float) -> paddle.Tensor:
        """Clips the gradients, updates the parameters and clears the gradients.

        Where a gradient is not finite, the step is made with gradients and a learning rate of zero:
        the parameters stay as they are, running averages decay. Nothing here waits for the device.

        Returns:
            whether all gradients were finite, bool ``[]``, on the device.
        """
        gradients = self._gradients()
        divisor = self.loss_scaling.scale
        if self.grad_clip is not None:
            # Not Paddle's grad_clip argument, which would take each group's norm by itself.
            divisor = divisor.astype("float64")
            # Without its upper bound, clip makes the largest number of an infinite norm.
            share = (self.gradient_norm() + 1e-6) / self.grad_clip
            divisor = divisor * paddle.clip(share, min=1.0, max=math.inf)
        bad = _unscale(gradients, divisor)
        if self.grad_clip is not None:  # the norm may overflow where no gradient does
            bad = paddle.logical_or(bad, paddle.logical_not(paddle.isfinite(divisor)))
        if self.shards is not None:
            bad = self.shards.sum(bad.astype("float32")) > 0
        self.loss_scaling.update(bad, gradients)
        finite = paddle.logical_not(bad).reshape([])
        learning_rate = self._give_rates(self.adapt_gradients(learning_rate, finite))
        acting = self._optimizer if self.shards is None else self.shards.optimizer
        self._optimizer.set_lr(learning_rate)
        # The state's automatic names end in a count over the whole process; in a name space of its
        # own it is always 0, also for a second optimizer over the same network.
        with paddle.utils.unique_name.guard():
            self._optimizer._create_global_learning_rate()
            rate = self._optimizer._global_learning_rate()
            rate.multiply_(finite.astype(rate.dtype))
            with self.masters.in_place():
                acting.step()
        self._restored = None
        acting.clear_grad()
        return finite

    def _gradients(self) -> List[paddle.Tensor]:
        return [p.grad for _, p in self._named if p.grad is not None]

    def state_dict(self) -> Dict[str, np.ndarray]:
        """Returns the state as ``{"<parameter>/<quantity>": array}``.

        Where processes share it out, all must call this, and the first one gets it.

        Paddle names it by automatic names (``linear_0.w_0_moment1_0``), which shift when the
        process builds another network first; here the network's own names are used.
        """
        if self._restored is not None:
            return dict(self._restored)
        state: Dict[str, np.ndarray] = {}
        automatic = {parameter.name: name for name, parameter in self._named}
        for key, value in self._optimizer.state_dict().items():
            if key == "LR_Scheduler":
                continue  # the schedule is a function of the step
            name, quantity = _split_key(key, automatic)
            state[f"{name}/{quantity}"] = own_array(value)
        if self.shards is not None:
            state = self.shards.gather(state)
        for key, array in self.loss_scaling.state_dict().items():
            state[f"{_LOSS_SCALING}/{key}"] = array
        return state

    def load_state_dict(self, state: Dict[str, np.ndarray]) -> None:
        """Restores what ``state_dict`` returned."""
        parameters = dict(self._named)
        restored, loss_scaling = {}, {}
        for key, value in state.items():
            name, _, quantity = key.rpartition("/")
            if name == _LOSS_SCALING:
                loss_scaling[quantity] = value
                continue
            if name not in parameters:
                raise PasslError(f"the optimizer state speaks of '{name}', which the model lacks")
            restored[f"{parameters[name].name}_{quantity}_0"] = paddle.to_tensor(value)
        self._optimizer.set_state_dict(restored)
        self.loss_scaling.load_state_dict(loss_scaling)
        self._restored = dict(state)


def _keep_in_their_places(optimizer: paddle.optimizer.Optimizer) -> None:
    """Lets restored state lie where Paddle has it in a new run.

    That is the processor's memory for the powers of Adam's betas. Paddle puts what it restores onto
    the GPU (``Optimizer._add_accumulator``), where a resumed run would step by another kernel.
    """
    add = optimizer._add_accumulator

    def add_in_its_place(*arguments: Any, **options: Any) -> Any:
        state = add(*arguments, **options)
        if options.get("device") == "cpu" and not state.place.is_cpu_place():
            state.get_tensor().set(state.numpy(), paddle.CPUPlace())
        return state

    optimizer._add_accumulator = add_in_its_place


def _norm(gradients: List[paddle.Tensor]) -> paddle.Tensor:
    """Returns the L2 norm of all gradients together, float64 ``[1]``."""
    norms = []
    for group in by_dtype(gradients):
        group = [widened(gradient) for gradient in group]  # a sum of squares would overflow
        norm = paddle.linalg.norm(paddle.stack([paddle.linalg.norm(g) for g in group]))
        norms.append(norm.astype("float64"))
    return paddle.linalg.norm(paddle.stack(norms)).reshape([1])


def _unscale(gradients: List[paddle.Tensor], divisor: paddle.Tensor) -> paddle.Tensor:
    """Divides all gradients; returns whether one of them is not finite, bool ``[1]``."""
    bad = []
    for group in by_dtype(gradients):
        dtype = paddle.float64 if group[0].dtype == paddle.float64 else paddle.float32
        by = divisor if divisor.dtype == dtype else divisor.astype(dtype)
        bad.append(_C_ops.check_finite_and_unscale_(group, by)[-1])
    return functools.reduce(paddle.logical_or, bad)


def _split_key(key: str, automatic: Dict[str, str]) -> Tuple[str, str]:
    """Splits ``linear_0.w_0_moment1_0`` into the network's name and ``moment1``."""
    key = key.rpartition("_")[0]
    end = len(key) + 1
    while end > 0:
        end = key.rfind("_", 0, end)
        if end > 0 and key[:end] in automatic:
            return automatic[key[:end]], key[end + 1 :]
    raise AssertionError(f"optimizer state {key} belongs to no parameter")
