"""The linear classification head."""

from __future__ import annotations

import math

import paddle.nn.functional as F
from paddle import nn

from passl.modeling.heads.registry import HEADS
from passl.modeling.heads.targets import soft_targets
from passl.modeling.layers import Linear, lecun_normal_, normal_, zeros_
from passl.utils.errors import PasslError
from passl.utils.widened import widened


@HEADS.register
class ClassificationHead(nn.Layer):
    """One linear layer over pooled features, with its loss.

    Args:
        in_channels: size of the features.
        num_classes: number of classes.
        loss: ``softmax`` for cross-entropy over exclusive classes, ``sigmoid`` for independent
            binary cross-entropies summed over the classes (big_vision's ``sigmoid_xent``).
        label_smoothing: ε of Szegedy et al. (arXiv 1512.00567, section 7); applied while training,
            so that an evaluation's loss is the plain one.
        init: ``zeros`` for the weights (MLP-Mixer and its fine-tuning), ``normal`` for one of
            standard deviation 0.02 (ResMLP, CycleMLP, ViP, ConvMLP), or ``lecun_normal``.
        init_scale: what the weights of ``normal`` are multiplied by; BEiT's authors take 0.001.
        bias_init: what the bias starts at. With the sigmoid loss, -log(num_classes - 1), -6.9 for
            1000 classes, starts at what is right on average.

    Shape:
        input: ``[N, in_channels]``; output: logits ``[N, num_classes]``.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 1000,
        loss: str = "softmax",
        label_smoothing: float = 0.0,
        init: str = "zeros",
        bias_init: float = 0.0,
        init_scale: float = 1.0,
    ):
        super().__init__()
        if num_classes < 1:
            raise PasslError(f"num_classes must be at least 1, not {num_classes}")
        if loss not in ("softmax", "sigmoid"):
            raise PasslError(f"the head's loss is 'softmax' or 'sigmoid', not '{loss}'")
        if not 0.0 <= label_smoothing < 1.0:
            raise PasslError(f"label_smoothing lies in [0, 1), not {label_smoothing}")
        if not math.isfinite(bias_init):
            raise PasslError(f"bias_init is a finite number, not {bias_init}")
        self.num_classes = num_classes
        self.loss_name = loss
        self.label_smoothing = label_smoothing
        self.fc = Linear(in_channels, num_classes)
        if not 0 <= init_scale < math.inf or (init_scale != 1.0 and init != "normal"):
            raise PasslError(
                f"init_scale is a number from 0 on, and goes with init='normal', not {init_scale} "
                f"with '{init}'"
            )
        self._start(self.fc, init, bias_init, init_scale)

    def _start(self, fc: Linear, init: str, bias_init: float, init_scale: float) -> None:
        nn.initializer.Constant(bias_init)(fc.bias)
        if init == "zeros":
            zeros_(fc.weight)
        elif init == "lecun_normal":
            lecun_normal_(fc.weight, fan_in=fc.weight.shape[0])
        elif init == "normal":
            normal_(fc.weight, std=0.02 * init_scale)
        else:
            raise PasslError(
                f"the head's init is 'zeros', 'normal' or 'lecun_normal', not '{init}'"
            )

    def forward(self, features):
        return self.fc(features)

    def loss(self, outputs, batch):
        """Returns the mean loss of a batch, a scalar, of float32 at least.

        Args:
            outputs: ``logits``, ``[N, num_classes]``.
            batch: ``label``, int64 ``[N]``, and what ``Mixup`` adds.
        """
        logits = widened(outputs["logits"])
        smoothing = self.label_smoothing if self.training else 0.0
        if self.loss_name == "sigmoid":
            target = soft_targets(batch, self.num_classes, smoothing).astype(logits.dtype)
            elements = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            return elements.sum(axis=-1).mean()
        if smoothing or "partner_label" in batch:
            target = soft_targets(batch, self.num_classes, smoothing).astype(logits.dtype)
            return F.cross_entropy(logits, target, soft_label=True)
        return F.cross_entropy(logits, batch["label"])
