"""Float32 weights beside a network's 16-bit ones, which steps and evaluations are made with.

Micikevicius et al., "Mixed Precision Training", arXiv 1710.03740, section 3.1.
"""

from __future__ import annotations

import contextlib
from typing import Dict, Iterator, Mapping

import paddle


class MasterWeights:
    """The float32 weights of parameters that hold 16 bits.

    PaddlePaddle's optimizers have a way of their own, whose kernels take float32 gradients in AdamW
    alone (``grad.data<T>()`` in ``momentum_kernel_impl.h`` and ``lamb_kernel_impl.h``), and which a
    processor has not got.

    Args:
        parameters: by name.
        weights: float32, of the same names; they are changed in place.
    """

    def __init__(
        self, parameters: Mapping[str, paddle.Tensor], weights: Mapping[str, paddle.Tensor]
    ):
        self._parameters, self.weights = dict(parameters), dict(weights)
        self._dtypes = {name: parameter.dtype for name, parameter in parameters.items()}

    @contextlib.contextmanager
    def in_place(self) -> Iterator[Dict[str, paddle.Tensor]]:
        """Lets the parameters be the float32 weights for a while: they share their memory.

        What is done to the parameters is done to these. Afterwards the parameters hold what they
        have become, rounded. The 16-bit numbers have no memory meanwhile.
        """
        for name, parameter in self._parameters.items():
            _share(self.weights[name], parameter)
        try:
            yield self.weights
        finally:
            for name, parameter in self._parameters.items():
                _share(self.weights[name].astype(self._dtypes[name]), parameter)


def narrow(parameter: paddle.Tensor, dtype: str) -> None:
    """Rounds a parameter to another type, in place; its gradient is left alone."""
    _share(parameter.detach().astype(dtype), parameter)


def _share(value: paddle.Tensor, parameter: paddle.Tensor) -> None:
    # As paddle.nn.Layer.to does.
    parameter.value().get_tensor()._share_data_with(value.value().get_tensor())
