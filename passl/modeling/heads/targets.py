"""What a classification head is to answer, as a distribution over the classes."""

from __future__ import annotations

from typing import Any, Mapping

import paddle
import paddle.nn.functional as F


def soft_targets(
    batch: Mapping[str, Any], num_classes: int, label_smoothing: float = 0.0
) -> paddle.Tensor:
    """Returns the targets of a batch whose labels may be mixed or smoothed.

    Args:
        batch: ``label``, int64 ``[N]``; where images were mixed, also ``partner_label``, int64
            ``[N]``, and ``partner_weight``, float32 ``[N]``.
        num_classes: K.
        label_smoothing: ε that is shared out evenly over all classes (Szegedy et al.,
            arXiv 1512.00567, section 7).

    Returns:
        float ``[N, K]``, rows with the sum 1, of the dtype of ``partner_weight``.
    """
    target = F.one_hot(batch["label"], num_classes)
    if "partner_label" in batch:
        weight = batch["partner_weight"].unsqueeze(-1)
        target = target.astype(weight.dtype)
        target = target * (1 - weight) + F.one_hot(batch["partner_label"], num_classes) * weight
    if label_smoothing:
        target = F.label_smooth(target, epsilon=label_smoothing)
    return target
