"""The two classification layers of a distilled DeiT."""

from __future__ import annotations

from passl.modeling.heads.classification import ClassificationHead
from passl.modeling.heads.registry import HEADS
from passl.modeling.layers import Linear
from passl.utils.errors import PasslError


@HEADS.register
class DistilledHead(ClassificationHead):
    """A linear layer for the class token and one for the distillation token; their mean answers.

    Touvron et al., arXiv 2012.12877, section 4: in evaluation the two are averaged. Trained without
    a teacher, it is the mean's loss that is minimised.

    Args:
        in_channels: size of both tokens together, 2·C.
        num_classes, loss, label_smoothing, init, bias_init, init_scale: as of
            ``ClassificationHead``.

    Shape:
        input: ``[N, 2·C]``; output: logits ``[N, num_classes]``.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 1000,
        loss: str = "softmax",
        label_smoothing: float = 0.0,
        init: str = "normal",
        bias_init: float = 0.0,
        init_scale: float = 1.0,
    ):
        if in_channels % 2:
            raise PasslError(
                "DistilledHead takes the class and the distillation token side by side, which "
                f"{in_channels} features cannot be; take ClassificationHead for this backbone"
            )
        super().__init__(
            in_channels // 2, num_classes, loss, label_smoothing, init, bias_init, init_scale
        )
        self.fc_dist = Linear(in_channels // 2, num_classes)
        self._start(self.fc_dist, init, bias_init, init_scale)

    def forward(self, features):
        token, distilled = features.chunk(2, axis=-1)
        return (self.fc(token) + self.fc_dist(distilled)) / 2
