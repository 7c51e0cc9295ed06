"""A backbone with a classification head."""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

import paddle
from paddle import nn

from passl.modeling.architectures.base import Architecture
from passl.modeling.architectures.registry import ARCHITECTURES
from passl.modeling.backbones import build_backbone
from passl.modeling.heads import build_head
from passl.utils.config import origin_of
from passl.utils.errors import PasslError
from passl.utils.widened import widened


@ARCHITECTURES.register
class Classifier(Architecture):
    """Supervised image classification.

    Args:
        architecture: config of the backbone.
        head: config of the head; its ``in_channels`` is the backbone's ``num_features`` where
            it is not given.
        freeze: parts that do not learn; ``[backbone]`` trains a linear probe on its features.

    Shape:
        input: ``image`` ``[N, C, H, W]`` and, for a loss, ``label`` int64 ``[N]``;
        output: ``features`` ``[N, num_features]``, ``logits`` ``[N, num_classes]`` and ``loss``, a
        scalar. In training also ``scalars``: ``top1``, the share in % of the images, augmented as
        they are, whose largest logit is that of their label. Of images that were mixed it is the
        label of the larger share (as torchvision's reference training and Keras count), so that it
        may stay far below what an evaluation finds.
    """

    def __init__(
        self,
        architecture: Mapping[str, Any],
        head: Mapping[str, Any],
        freeze: Sequence[str] = (),
    ):
        super().__init__()
        self._join(architecture, head)
        self.freeze(freeze)

    def _join(self, architecture: Mapping[str, Any], head: Optional[Mapping[str, Any]]) -> None:
        self.backbone = build_backbone(architecture)
        width = self.backbone.num_features
        if head is not None and head.get("in_channels", width) != width:
            raise PasslError(
                f"the head's in_channels is {head['in_channels']} but the backbone gives {width} "
                "features; leave in_channels out to follow the backbone",
                place=origin_of(head, "in_channels"),
            )
        self.head = None if head is None else build_head(head, in_channels=width)

    @property
    def num_classes(self) -> int:
        """Number of classes that the logits speak of; 0 without a head."""
        return 0 if self.head is None else self.head.num_classes

    def forward(self, batch):
        features = self.backbone(batch["image"])
        outputs = {"features": features, "logits": self.head(features)}
        if "label" in batch:
            outputs["loss"] = self.head.loss(outputs, batch)
            if self.training:
                outputs["scalars"] = {"top1": _top1(outputs["logits"], batch)}
        return outputs


@paddle.no_grad()
def _top1(logits: paddle.Tensor, batch: Mapping[str, Any]) -> paddle.Tensor:
    """Returns the share of right answers in %, float32 ``[]``, without waiting for the device."""
    label = batch["label"]
    if "partner_label" in batch:
        label = paddle.where(batch["partner_weight"] > 0.5, batch["partner_label"], label)
    right = widened(logits.detach()).argmax(axis=1) == label
    return 100.0 * right.astype("float32").mean()


class Network(Classifier):
    """The layers of a classifier, called with images: what is used outside of training.

    Its parameters have the names of a ``Classifier``'s, so that weights go both ways.

    Args:
        architecture: config of the backbone.
        head: config of the head; None for features.

    Shape:
        input: ``[N, C, H, W]``, normalised; output: ``[N, num_classes]`` or
        ``[N, num_features]``.
    """

    def __init__(self, architecture: Mapping[str, Any], head: Optional[Mapping[str, Any]] = None):
        Architecture.__init__(self)
        self._join(architecture, head)

    @classmethod
    def of(cls, backbone: nn.Layer, head: Optional[nn.Layer] = None) -> Network:
        """Returns a network of layers that there are."""
        network = cls.__new__(cls)
        Architecture.__init__(network)
        network.backbone, network.head = backbone, head
        return network

    @property
    def num_features(self) -> int:
        """Size of the pooled features."""
        return self.backbone.num_features

    def freeze_backbone(self) -> None:
        """Leaves only the head to learn: a linear probe."""
        self.freeze(["backbone"])

    def forward_features(self, image: paddle.Tensor) -> paddle.Tensor:
        """Returns the backbone's features before pooling."""
        return self.backbone.forward_features(image)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        features = self.backbone(image)
        return features if self.head is None else self.head(features)
