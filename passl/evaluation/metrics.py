"""Accuracy, and what is no answer, in one place."""

from __future__ import annotations

import paddle
from paddle.nn import functional as F

NO_ANSWER = 1 << 40  # the rank of every class where there is no answer


def probabilities(logits):
    """Returns the softmax over the classes, float32 ``[N, K]``, of logits of any float type.

    A row in which one is not finite is no answer: its logits hold NaN or positive infinity.
    """
    return F.softmax(logits.astype("float32"), axis=-1)


def answered(probabilities):
    """Tells which rows ``[N, K]`` of probabilities are an answer: bool ``[N]``."""
    return paddle.isfinite(probabilities).all(axis=-1)


def label_ranks(logits, label):
    """Returns how many classes are ranked before the right one: int64 ``[N]``, 0 is a hit.

    Equal logits rank by class number, as in a stable sort: a network whose logits are all equal is
    right about class 0 alone. Where logits are not finite, the rank is ``NO_ANSWER``, however many
    classes there are.

    Args:
        logits: float ``[N, K]``.
        label: int64 ``[N]``.
    """
    own = paddle.take_along_axis(logits, label.unsqueeze(1), axis=1)  # [N, 1]
    classes = paddle.arange(logits.shape[1], dtype="int64").unsqueeze(0)
    before = (logits > own) | ((logits == own) & (classes < label.unsqueeze(1)))
    rank = before.astype("int64").sum(axis=1)
    none = paddle.full_like(rank, NO_ANSWER)
    return paddle.where(answered(probabilities(logits)), rank, none)
