"""A moving average of the weights, which is often better than the last of them."""

from __future__ import annotations

import contextlib
from typing import Dict, Iterator, Mapping

import numpy as np
import paddle
from paddle import nn

from passl.utils.errors import PasslError


class WeightAverage:
    """The exponential moving average of a network's trainable parameters.

    After each step, ``average ← d · average + (1 - d) · parameter`` (Polyak and Juditsky, SIAM J.
    Control Optim. 30, 1992; as exponential average in Szegedy et al., arXiv 1512.00567, section 8).

    Args:
        model: the network; the average begins as its present weights.
        decay: ``d``, in [0, 1).
        warmup: whether ``d`` is at most ``(1 + n) / (10 + n)`` after ``n`` steps, so that the
            average soon forgets the initial weights (TensorFlow's ``ExponentialMovingAverage``).

    Raises:
        PasslError: a decay out of bounds.
    """

    def __init__(self, model: nn.Layer, decay: float = 0.9999, warmup: bool = True):
        if not 0 <= decay < 1:
            raise PasslError(f"ema.decay lies in [0, 1), not {decay}")
        self.decay, self.warmup = decay, warmup
        self._model = model
        self._parameters = {n: p for n, p in model.named_parameters() if not p.stop_gradient}
        self._averages = {n: p.detach().clone() for n, p in self._parameters.items()}

    def update(self, steps: int, weights: Mapping[str, paddle.Tensor]) -> None:
        """Takes the weights in after ``steps`` steps of the run, this one included.

        Args:
            steps: that many have been made.
            weights: what the optimizer makes its steps on, by the network's names.
        """
        decay = min(self.decay, (1 + steps) / (10 + steps)) if self.warmup else self.decay
        with paddle.no_grad():
            for name, average in self._averages.items():
                average.lerp_(weights[name], 1.0 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the averages in the place of the weights for a while."""
        with paddle.no_grad():
            held = {name: parameter.clone() for name, parameter in self._parameters.items()}
            for name, parameter in self._parameters.items():
                paddle.assign(self._averages[name].astype(parameter.dtype), parameter)
        try:
            yield
        finally:
            with paddle.no_grad():
                for name, parameter in self._parameters.items():
                    paddle.assign(held[name], parameter)

    def tensors(self) -> Dict[str, paddle.Tensor]:
        """Returns the averages by the network's names."""
        return dict(self._averages)

    def load_state_dict(self, state: Dict[str, np.ndarray]) -> None:
        """Restores the averages from arrays; others are passed over."""
        missing = sorted(set(self._averages) - set(state))
        if missing:
            raise PasslError(f"the averaged weights lack '{missing[0]}'")
        for name, average in self._averages.items():
            paddle.assign(paddle.to_tensor(state[name]), average)
