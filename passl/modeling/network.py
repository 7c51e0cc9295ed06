"""A backbone with or without a head, as a function of images: the network outside of training."""

from __future__ import annotations

from typing import Any, Mapping, Optional

from paddle import nn

from passl.modeling.backbones import build_backbone
from passl.modeling.heads import build_head
from passl.modeling.layers import freeze, keep_frozen


class Network(nn.Layer):
    """Images to logits, or to features where there is no head.

    Its parameters have the names of the ``Classifier`` architecture, so that weights go both
    ways.

    Args:
        architecture: config of the backbone.
        head: config of the head; None for features.

    Shape:
        input: ``[N, C, H, W]``, normalised; output: ``[N, num_classes]`` or
        ``[N, num_features]``.
    """

    def __init__(self, architecture: Mapping[str, Any], head: Optional[Mapping[str, Any]] = None):
        super().__init__()
        self.backbone = build_backbone(architecture)
        self.num_features = self.backbone.num_features
        self.head = None if head is None else build_head(head, in_channels=self.num_features)

    @property
    def num_classes(self) -> int:
        """Number of logits; 0 for features."""
        return 0 if self.head is None else self.head.num_classes

    def freeze_backbone(self) -> None:
        """Leaves only the head to learn: a linear probe."""
        freeze(self.backbone)

    def train(self):
        super().train()
        keep_frozen(self)

    def forward_features(self, image):
        """Returns the backbone's features before pooling."""
        return self.backbone.forward_features(image)

    def forward(self, image):
        features = self.backbone(image)
        return features if self.head is None else self.head(features)
