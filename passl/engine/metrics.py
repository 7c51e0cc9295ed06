"""Accuracy, in one place."""

from __future__ import annotations

import paddle


def label_ranks(logits, label):
    """Returns how many classes are ranked before the right one: int64 ``[N]``, 0 is a hit.

    Equal logits rank by class number, as a stable sort would have it, so that a network which
    answers the same for everything is not counted right. Where the right class's logit is not
    a number, its rank is last.

    Args:
        logits: float ``[N, K]``.
        label: int64 ``[N]``.
    """
    own = paddle.take_along_axis(logits, label.unsqueeze(1), axis=1)  # [N, 1]
    classes = paddle.arange(logits.shape[1], dtype="int64").unsqueeze(0)
    before = (logits > own) | ((logits == own) & (classes < label.unsqueeze(1)))
    rank = before.astype("int64").sum(axis=1)
    return paddle.where(paddle.isnan(own.squeeze(1)), paddle.full_like(rank, logits.shape[1]), rank)
