"""A linear classifier of directions: what tells classes apart by words, as a head."""

from __future__ import annotations

from typing import Optional

from passl.modeling.heads.classification import ClassificationHead
from passl.modeling.heads.registry import HEADS
from passl.modeling.layers import Linear, check_sizes, normal_
from passl.modeling.layers.embeddings import unit


@HEADS.register
class CosineHead(ClassificationHead):
    """One linear layer over projected features of length 1, with its loss.

    Where the columns of its weights are the embeddings of sentences times the scale of the
    similarities, its logits are those of CLIP's zero-shot classification; fine-tuning begins there
    in WiSE-FT (Wortsman et al., arXiv 2109.01903, section 2 and appendix; there, too, the columns
    may grow and a bias is learned).

    Args:
        in_channels: size of the features.
        num_classes: number of classes.
        embed_dim: d, of the space of the embeddings, to which a linear map without bias leads; None
            where the features are embeddings already.
        loss, label_smoothing, init, bias_init, init_scale: see ``ClassificationHead``.

    Shape:
        input: ``[N, in_channels]``; output: logits ``[N, num_classes]``.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 1000,
        embed_dim: Optional[int] = None,
        loss: str = "softmax",
        label_smoothing: float = 0.0,
        init: str = "zeros",
        bias_init: float = 0.0,
        init_scale: float = 1.0,
    ):
        width = in_channels if embed_dim is None else embed_dim
        check_sizes(in_channels=in_channels, embed_dim=width)
        super().__init__(width, num_classes, loss, label_smoothing, init, bias_init, init_scale)
        self.projection = None
        if embed_dim is not None:
            self.projection = Linear(in_channels, embed_dim, bias_attr=False)
            normal_(self.projection.weight, std=in_channels**-0.5)

    def forward(self, features):
        return self.fc(unit(features if self.projection is None else self.projection(features)))
