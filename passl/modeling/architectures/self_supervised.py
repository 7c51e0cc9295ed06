"""What methods that learn without labels share."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

import paddle

from passl.modeling.architectures.base import Architecture
from passl.modeling.backbones import build_backbone
from passl.modeling.heads import build_head
from passl.modeling.layers import has_batch_norms, sync_batch_norms
from passl.utils.errors import PasslError
from passl.utils.logging import logger

_COLLAPSED = 0.2  # spread below which embeddings have all but become one
_BEGINNING = 0.1  # share of a run in which they may: those of a fresh network lie close together


class SelfSupervised(Architecture):
    """Base of methods that compare two views of each image: a backbone and a projector.

    In evaluation it is its backbone, for the evaluator ``Neighbours``: what the projector and
    whatever follows it are for, the loss, is not what others use the network for.

    Args:
        architecture: config of the backbone.
        projector: config of the projector, over ``default_projector``.

    Attributes:
        default_projector: arguments of the method's projector, which a config may change. They
            count where it names no other head.

    Shape:
        input: in training ``image`` and ``image_1``, ``[N, C, H, W]`` (the transform ``Views``),
        and ``label``, int64 ``[N]``, where there is a probe; in evaluation ``image``;
        output: in training ``loss`` and ``scalars``, see the methods: ``spread`` (of the embeddings
        over the sphere: 1 evenly, 0 collapsed), with a probe its ``probe_loss`` and ``probe_top1``,
        %; in evaluation ``features`` ``[N, num_features]``, and the probe's ``logits``.
    """

    evaluator = "Neighbours"
    additive = False
    equal_batches = True
    views = 2
    least_batch = 2
    training_parts = ("projector", "predictor", "twin", "queue")
    excludes = ("to_static", "parallel.sharding")
    default_projector: Mapping[str, Any] = {}

    def __init__(
        self,
        architecture: Mapping[str, Any],
        projector: Optional[Mapping[str, Any]] = None,
    ):
        super().__init__()
        self.backbone = build_backbone(architecture)
        self.projector = build_part(projector, self.default_projector, self.backbone.num_features)
        self.probe = None

    def forward(self, batch):
        if not self.training:
            features = self.backbone(batch["image"])
            outputs = {"features": features}
            if self.probe is not None:
                outputs["logits"] = self.probe(features)
            return outputs
        outputs = self.learn(batch)
        features = outputs.pop("features")
        if self.probe is not None:
            self._learn_probe(features.detach(), batch, outputs)
        return outputs

    def add_probe(self, probe: Optional[Mapping[str, Any]]) -> None:
        """Adds a linear classifier that learns beside the method to tell the labels from features.

        No gradient goes from it into the backbone: it says how good the features are while they are
        learned. Where gradients are clipped by their norm, its own count towards it. Methods build
        it last, so that the rest begins as it would without.

        Args:
            probe: its config, ``{num_classes: 1000}``; None for none.
        """
        if probe is not None:
            width = self.backbone.num_features
            self.probe = build_head(probe, default="ClassificationHead", in_channels=width)
            self.num_classes = self.probe.num_classes

    def learn(self, batch: Mapping[str, paddle.Tensor]) -> Dict[str, Any]:
        """Returns ``loss``, ``scalars`` and the backbone's ``features`` of the first view."""
        raise NotImplementedError

    def start_twin(self) -> None:
        """Makes a momentum encoder, if there is one, a copy of the network as it is now."""

    def after_loading(self, report: Any) -> None:
        if any(name.startswith("twin.") for name in report.kept):
            self.start_twin()
            logger.info("%s: the momentum encoder begins as a copy of the network", report.path)

    def _learn_probe(
        self, features: paddle.Tensor, batch: Mapping[str, paddle.Tensor], outputs: Dict[str, Any]
    ) -> None:
        logits = self.probe(features)
        loss = self.probe.loss({"logits": logits}, batch)
        # The value of the loss stays the method's own; the gradient is of both.
        outputs["loss"] = outputs["loss"] + (loss - loss.detach())
        right = (logits.argmax(axis=1) == batch["label"]).astype("float32").mean()
        outputs["scalars"].update(probe_loss=loss.detach(), probe_top1=100.0 * right)

    def share_batch_norms(self, shared: bool) -> None:
        """Lets batch norms, if there are any, take their statistics over all processes."""
        if shared and has_batch_norms(self):
            sync_batch_norms(self)

    def warning(self, means: Mapping[str, float], progress: float) -> Optional[str]:
        spread = means.get("spread", 1.0)
        if spread >= _COLLAPSED or progress < _BEGINNING:
            return None
        return (
            f"the embeddings collapse: they spread {spread:.2f} over the sphere, where 1 is evenly "
            "and 0 that all images have the same; lower learning_rate, or look at the views and at "
            "the projector's batch norms"
        )

    def check_batches(self, images: int, per_process: int, processes: int) -> None:
        if per_process < self.least_batch:
            raise PasslError(
                f"{type(self).__name__} compares the images of a batch with one another, and a "
                f"process takes {per_process} at a time; set dataloader.train.sampler.batch_size "
                f"to {self.least_batch} at least"
            )


def build_part(
    cfg: Optional[Mapping[str, Any]], defaults: Mapping[str, Any], in_channels: int
) -> Any:
    """Builds a projector or predictor from its config over a method's defaults."""
    if cfg is not None and "name" in cfg:
        return build_head(cfg, in_channels=in_channels)
    return build_head(cfg or {}, default="ProjectionHead", in_channels=in_channels, **defaults)


def check_temperature(temperature: float) -> None:
    """Raises a PasslError where a temperature is none."""
    if not temperature > 0:
        raise PasslError(f"T, the temperature, is above 0, not {temperature}")


def check_share(name: str, share: float) -> None:
    """Raises a PasslError where what stays of a twin is no share."""
    if not 0 <= share <= 1:
        raise PasslError(f"{name}, the share of the twin that stays, lies in [0, 1], not {share}")
