"""The keys of the last batches, as negatives of the next ones."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn


class KeyQueue(nn.Layer):
    """First in, first out: ``length`` keys of ``dim`` numbers, on the unit sphere.

    He et al., arXiv 1911.05722, section 3.2 ("Dictionary as a queue"). It begins with random keys
    and lies in the state of the network with its pointer, so that a resumed run goes on with it.
    It keeps float32 at least.

    Args:
        length: K.
        dim: size of a key.

    Attributes:
        keys: ``[K, dim]``.
        pointer: where the next keys go, int64 ``[1]``.
    """

    def __init__(self, length: int, dim: int):
        super().__init__()
        self.register_buffer("keys", F.normalize(paddle.randn([length, dim]), axis=1))
        self.register_buffer("pointer", paddle.zeros([1], "int64"))

    @paddle.no_grad()
    def enqueue(self, keys: paddle.Tensor, finite: paddle.Tensor) -> None:
        """Puts keys in the place of the oldest; all of them, or none where a number is not finite.

        Args:
            keys: ``[n, dim]``, n at most K; the same in all processes, in the same order.
            finite: whether the step that they belong to was made, bool ``[]``.
        """
        length, count = self.keys.shape[0], keys.shape[0]
        assert count <= length
        keys = keys.astype(self.keys.dtype)
        good = paddle.logical_and(finite.reshape([]), paddle.isfinite(keys).all())
        places = (self.pointer + paddle.arange(count, dtype="int64")) % length
        kept = paddle.gather(self.keys, places)
        paddle.assign(paddle.scatter(self.keys, places, paddle.where(good, keys, kept)), self.keys)
        moved = (self.pointer + count * good.astype("int64")) % length
        paddle.assign(moved, self.pointer)
