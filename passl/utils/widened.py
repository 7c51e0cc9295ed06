"""Numbers of 16 bits in 32, where sums, norms and losses are made of them."""

from __future__ import annotations

import paddle


def widened(tensor: paddle.Tensor) -> paddle.Tensor:
    """Returns a tensor in float32 if it has 16 bits, and as it is if it has more.

    Losses, softmax and norms begin with it. Under mixed precision PaddlePaddle computes what is not
    a product in the widest type that it is given; of 16 bits alone, level O2 computes it in those.
    """
    narrow = tensor.dtype in (paddle.float16, paddle.bfloat16)
    return tensor.astype("float32") if narrow else tensor
