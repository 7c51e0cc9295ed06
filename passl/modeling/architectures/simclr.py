"""SimCLR.

Chen, Kornblith, Norouzi, Hinton: "A Simple Framework for Contrastive Learning of Visual
Representations", arXiv 2002.05709; the authors' code is github.com/google-research/simclr.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Tuple

import paddle
import paddle.nn.functional as F

from passl.distributed.collectives import all_gather_with_gradient, process_count, process_rank
from passl.modeling.architectures.registry import ARCHITECTURES
from passl.modeling.architectures.self_supervised import SelfSupervised, check_temperature
from passl.modeling.layers.embeddings import spread, unit

_NEVER = -1e9  # a similarity that no softmax sees


@ARCHITECTURES.register
class SimCLR(SelfSupervised):
    """Tells the other view of an image from all other images of the batch.

    Both views go through the network as one batch, so that batch norms see 2N images, of all
    processes together. Negatives are the 2(N - 1) views of the other images of all processes, and
    their gradient goes to the process that they come from.

    Args:
        architecture, projector: see ``SelfSupervised``. The projector is by default that of
            the paper's section 2.1, 2048 wide, with 128 outputs; the authors' code, and the 64.5 %
            of its README, has three layers.
        T: temperature τ of the loss; the paper has 0.1 for ImageNet and 0.5 for CIFAR-10.
        loss_scale: what the mean over the 2N views is multiplied by. 2, as in the authors' code,
            which adds the means over both directions: with their LARS it acts on the biases and the
            norms, whose gradients are not adapted. The paper's equation 1 and most other libraries
            have 1.
        sync_batch_norm: whether batch norms take their statistics over all processes.
        probe: see ``add_probe``.

    Shape:
        see ``SelfSupervised``; ``scalars`` also has ``contrast_top1``, the share of views, in %,
        whose most similar one is the other view of the same image. A network that knows nothing has
        a loss of ``loss_scale · log(2N - 1)``.
    """

    default_projector = {
        "hidden": 2048,
        "out": 128,
        "layers": 2,
        "bias": False,
        "out_bias": False,
        "out_norm": "scale",
        "init": "normal",
    }
    excludes = ("parallel.sharding",)

    def __init__(
        self,
        architecture: Mapping[str, Any],
        projector: Optional[Mapping[str, Any]] = None,
        T: float = 0.1,
        loss_scale: float = 2.0,
        sync_batch_norm: bool = True,
        probe: Optional[Mapping[str, Any]] = None,
    ):
        super().__init__(architecture, projector)
        check_temperature(T)
        self.T, self.loss_scale = T, loss_scale
        self.share_batch_norms(sync_batch_norm)
        self.add_probe(probe)

    def learn(self, batch):
        views = paddle.concat([batch["image"], batch["image_1"]])
        features = self.backbone(views)
        one, two = unit(self.projector(features)).chunk(2)
        with paddle.amp.auto_cast(enable=False):
            loss, right = nt_xent(one, two, self.T)
            spreading = spread(one.detach())
        scalars = {"contrast_top1": 100.0 * right, "spread": spreading}
        count = batch["image"].shape[0]
        return {"loss": self.loss_scale * loss, "scalars": scalars, "features": features[:count]}


def nt_xent(
    one: paddle.Tensor, two: paddle.Tensor, temperature: float
) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """The normalised temperature-scaled cross-entropy, of this process's part of a batch.

    arXiv 2002.05709, equation 1 and algorithm 1: for each of the 2N views the cross-entropy of
    finding its partner among the 2N - 1 others, by cosine similarity over the temperature. The mean
    over the processes is that over all 2N views.

    Args:
        one, two: unit vectors ``[n, d]``; row i of both is of the same image.
        temperature: τ.

    Returns:
        the mean over the 2n views of this process, and the share of them, in [0, 1], to which the
        partner is the most similar one; scalars.
    """
    n, offset = one.shape[0], process_rank() * one.shape[0]
    total = n * process_count()
    # [N, 2d] of all processes, so that their views are exchanged in one piece.
    everybodys = paddle.concat(
        all_gather_with_gradient(paddle.concat([one, two], axis=1)).chunk(2, axis=1)
    )
    similarity = paddle.concat([one, two]) @ everybodys.T / temperature
    rows = paddle.arange(n) + offset
    itself = paddle.concat([rows, rows + total])
    partner = paddle.concat([rows + total, rows])
    similarity = similarity + _NEVER * F.one_hot(itself, 2 * total).astype(similarity.dtype)
    positive = ((one * two).sum(axis=1) / temperature).tile([2])
    # Not F.cross_entropy, which on a processor takes no probability for less than exp(-64).
    loss = (paddle.logsumexp(similarity, axis=1) - positive).mean()
    right = (similarity.detach().argmax(axis=1) == partner).astype(loss.dtype).mean()
    return loss, right
