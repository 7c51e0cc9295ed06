"""BYOL.

Grill et al.: "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", arXiv
2006.07733; the authors' code is github.com/google-deepmind/deepmind-research, byol/.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional

import paddle

from passl.modeling.architectures.registry import ARCHITECTURES
from passl.modeling.architectures.self_supervised import SelfSupervised, build_part, check_share
from passl.modeling.layers.embeddings import spread, unit
from passl.modeling.layers.momentum_twin import MomentumTwin, cosine_momentum
from passl.utils.errors import PasslError

_LEAST_NORM = 1e-6  # the authors divide by the root of max(sum of squares, 1e-12)


@ARCHITECTURES.register
class BYOL(SelfSupervised):
    """Predicts from one view of an image what the network's twin makes of the other; no negatives.

    Each view goes through network, predictor and twin by itself, with batch norms over that view
    of all processes. After the step the twin follows the network's new weights; the share of it
    that stays rises from ``tau`` to 1 along half a cosine.

    The twin begins as a copy of the network. The authors' begins with other random weights.

    Args:
        architecture, projector: see ``SelfSupervised``. The projector is by default the
            paper's (section 3.3): 4096 wide with 256 outputs.
        predictor: config of the predictor over the same sizes.
        tau: share of the twin that stays at the first step. The authors take 0.97 for 40 epochs,
            0.99 for 100 and 300, 0.996 for 1000.
        constant_tau: whether it stays at ``tau``.
        loss_scale: factor of the loss. 1 is the paper's, ``4 - 2 (cos + cos)`` in [0, 8]; with LARS
            it acts on biases and norms alone, whose gradients are not adapted.
        sync_batch_norm: whether batch norms take their statistics over all processes.
        probe: see ``add_probe``.

    Shape:
        see ``SelfSupervised``. A network whose predictions have nothing to do with the twin has a
        loss of ``4 · loss_scale``. ``spread`` is that of the projector's outputs.
    """

    default_projector = {
        "hidden": 4096,
        "out": 256,
        "layers": 2,
        "out_bias": False,
        "init": "truncated_normal",
    }

    def __init__(
        self,
        architecture: Mapping[str, Any],
        projector: Optional[Mapping[str, Any]] = None,
        predictor: Optional[Mapping[str, Any]] = None,
        tau: float = 0.99,
        constant_tau: bool = False,
        loss_scale: float = 1.0,
        sync_batch_norm: bool = True,
        probe: Optional[Mapping[str, Any]] = None,
    ):
        super().__init__(architecture, projector)
        check_share("tau", tau)
        self.tau, self.constant_tau, self.loss_scale = tau, constant_tau, loss_scale
        width = self.projector.out_channels
        self.predictor = build_part(predictor, {**self.default_projector, "out": width}, width)
        if self.predictor.out_channels != width:
            raise PasslError(
                f"the predictor gives {self.predictor.out_channels} numbers, but predicts a "
                f"projector's {width}; leave predictor.out out to follow it"
            )
        self.share_batch_norms(sync_batch_norm)
        self.twin = MomentumTwin(backbone=self.backbone, projector=self.projector)
        self.add_probe(probe)

    def start_twin(self) -> None:
        self.twin.follow(self)

    def learn(self, batch):
        views = batch["image"], batch["image_1"]
        features, predictions, spreads = [], [], []
        for view in views:
            features.append(self.backbone(view))
            projections = self.projector(features[-1])
            spreads.append(spread(unit(projections.detach())))
            predictions.append(unit(self.predictor(projections), _LEAST_NORM))
        with paddle.no_grad():
            targets = [unit(self.twin(view), _LEAST_NORM) for view in views]
        loss = sum(map(squared_distance, predictions, reversed(targets)))
        scalars = {"spread": (spreads[0] + spreads[1]) / 2}
        return {"loss": self.loss_scale * loss, "scalars": scalars, "features": features[0]}

    def after_step(self, step, total_steps, weights, finite):
        tau = self.tau if self.constant_tau else cosine_momentum(self.tau, step, total_steps)
        self.twin.update(weights, tau, finite)


def squared_distance(predictions: paddle.Tensor, targets: paddle.Tensor) -> paddle.Tensor:
    """Returns the mean over a batch of ``‖p - z‖² = 2 - 2 cos(p, z)``, a scalar.

    arXiv 2006.07733, equation 2.

    Args:
        predictions, targets: unit vectors ``[N, d]``.
    """
    return 2.0 - 2.0 * (predictions * targets).sum(axis=1).mean()
