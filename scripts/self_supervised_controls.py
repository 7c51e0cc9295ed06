"""Self-supervised methods that are broken on purpose: what they lack is what makes them work.

For ``scripts/self_supervised_cifar10.py``, which imports them as parts of a user's own.
"""

import paddle

from passl.modeling.architectures import ARCHITECTURES
from passl.modeling.architectures.byol import squared_distance
from passl.modeling.architectures.self_supervised import SelfSupervised
from passl.modeling.architectures.simclr import SimCLR
from passl.modeling.layers.embeddings import spread, unit


@ARCHITECTURES.register
class SimCLRShuffled(SimCLR):
    """SimCLR whose views are paired with those of other images: nothing is to be learned."""

    def learn(self, batch):
        order = paddle.randperm(batch["image_1"].shape[0])
        return super().learn({**batch, "image_1": paddle.gather(batch["image_1"], order)})


@ARCHITECTURES.register
class BYOLCollapsing(SelfSupervised):
    """BYOL without predictor, twin and stop-gradient: giving one answer to all is the best."""

    default_projector = {"hidden": 4096, "out": 256, "out_bias": False, "init": "truncated_normal"}

    def learn(self, batch):
        features = [self.backbone(batch[name]) for name in ("image", "image_1")]
        one, two = (unit(self.projector(x)) for x in features)
        scalars = {"spread": spread(one.detach())}
        return {
            "loss": 2.0 * squared_distance(one, two),
            "scalars": scalars,
            "features": features[0],
        }
