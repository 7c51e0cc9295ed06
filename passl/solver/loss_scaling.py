"""The factor that keeps float16 gradients from vanishing."""

from __future__ import annotations

from typing import Any, Dict, List

import numpy as np
import paddle
from paddle import _C_ops

from passl.utils.arrays import own_array
from passl.utils.errors import PasslError


class LossScaling:
    """Multiplies the loss, and finds a factor as large as the gradients bear.

    A factor that moves is halved after a step whose gradients overflowed, to 1 at least, and
    doubled after ``interval`` steps without one (Micikevicius et al., arXiv 1710.03740, section
    3.2). All of it is decided on the device.

    Args:
        interval: steps.

    Attributes:
        moves: whether it does; until ``begin`` it stays 1.
    """

    def __init__(self, interval: int = 2000):
        self.moves = False
        self._interval = interval
        self._scale = paddle.ones([1], dtype="float32")
        self._good_steps = paddle.zeros([1], dtype="int32")
        self._bad_steps = paddle.zeros([1], dtype="int32")
        self._restored = False

    def begin(self, first: float) -> None:
        """Lets the factor move, from ``first`` or from where a restored run had it.

        Raises:
            PasslError: a factor below 1.
        """
        if not 1 <= first < float("inf"):
            raise PasslError(f"amp.loss_scale is at least 1, not {first}")
        self.moves = True
        if not self._restored:
            self._scale = paddle.full([1], first, dtype="float32")

    @property
    def scale(self) -> paddle.Tensor:
        """The factor, float32 ``[1]``, on the device."""
        return self._scale

    def update(self, bad: paddle.Tensor, gradients: List[paddle.Tensor]) -> None:
        """Sets the gradients to zero where ``bad``, bool ``[1]``, holds, and moves the factor."""
        up, down = (2.0, 0.5) if self.moves else (1.0, 1.0)
        for i, group in enumerate(by_dtype(gradients)):
            # The factor moves once; the operation needs one of the precision of the gradients.
            wide = group[0].dtype == paddle.float64
            if i == 0 and not wide:
                state = self._scale, self._good_steps, self._bad_steps
            else:
                dtype = "float64" if wide else "float32"
                state = paddle.ones([1], dtype), *(paddle.zeros([1], "int32") for _ in range(2))
            _C_ops.update_loss_scaling_(group, bad, *state, self._interval, 1, up, down, False)

    def state_dict(self) -> Dict[str, np.ndarray]:
        """Returns what a resumed run needs; nothing where the factor does not move."""
        if not self.moves:
            return {}
        return {"scale": own_array(self._scale), "good_steps": own_array(self._good_steps)}

    def load_state_dict(self, state: Dict[str, np.ndarray]) -> None:
        """Restores what ``state_dict`` returned."""
        if state:
            self._restored = True
            self._scale = paddle.to_tensor(state["scale"])
            self._good_steps = paddle.to_tensor(state["good_steps"])


def by_dtype(tensors: List[paddle.Tensor]) -> List[List[paddle.Tensor]]:
    """Returns the tensors in one list for each dtype, as Paddle's fused operations want them."""
    kinds: Dict[Any, List[paddle.Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor)
    return list(kinds.values())
