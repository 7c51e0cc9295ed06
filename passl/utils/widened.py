"""Numbers of 16 bits in 32, where sums, norms and losses are made of them."""

from __future__ import annotations

import contextlib
from typing import ContextManager

import paddle


def widened(tensor: paddle.Tensor) -> paddle.Tensor:
    """Returns a tensor in float32 if it has 16 bits, and as it is if it has more."""
    narrow = tensor.dtype in (paddle.float16, paddle.bfloat16)
    return tensor.astype("float32") if narrow else tensor


def exactly() -> ContextManager[None]:
    """Returns a context in which operations compute in the precision of what they are given.

    Mixed precision casts for matrix products, where 16 bits are enough. A loss, a softmax or a norm
    is made of ``widened`` tensors in this context: under level O2 PaddlePaddle leaves them in 16
    bits otherwise (``paddle/amp/amp_lists.py``).
    """
    if not paddle.in_dynamic_mode():  # a static program has its precision from another place
        return contextlib.nullcontext()
    return paddle.amp.auto_cast(enable=False)
