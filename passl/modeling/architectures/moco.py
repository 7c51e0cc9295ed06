"""MoCo, versions 1 and 2.

He, Fan, Wu, Xie, Girshick: "Momentum Contrast for Unsupervised Visual Representation Learning",
arXiv 1911.05722; Chen, Fan, Girshick, He: "Improved Baselines with Momentum Contrastive Learning",
arXiv 2003.04297; the authors' code is github.com/facebookresearch/moco, moco/builder.py.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Tuple

import paddle

from passl.distributed.collectives import all_gather, broadcast, process_count, process_rank
from passl.modeling.architectures.registry import ARCHITECTURES
from passl.modeling.architectures.self_supervised import (
    SelfSupervised,
    check_share,
    check_temperature,
)
from passl.modeling.layers import has_batch_norms, has_sync_batch_norms, split_batch_norms
from passl.modeling.layers.embeddings import spread, unit
from passl.modeling.layers.key_queue import KeyQueue
from passl.modeling.layers.momentum_twin import MomentumTwin
from passl.utils.errors import PasslError
from passl.utils.logging import logger


@ARCHITECTURES.register
class MoCo(SelfSupervised):
    """Tells the other view of an image from those of the last K images, which wait in a queue.

    Queries are made of the first view by the network, keys of the second one by its twin, whose
    weights are a moving average. Keys get no gradient. They join the queue when the step is made,
    so that the negatives of a batch are the keys of earlier ones.

    Batch norms take their statistics in each process by itself, and the keys of a batch are made in
    another order than its queries, all processes' images shuffled: else a query and its key would
    be normalised together, and the network could tell them by that (arXiv 1911.05722, section 3.3,
    "Shuffling BN"). One process does the same with ``split_batch_norm`` parts of its batch.

    The defaults are those of version 2. Version 1 has ``projector: {layers: 1}``, ``T: 0.07`` and
    other views.

    Args:
        architecture, projector: see ``SelfSupervised``. The projector is by default the MLP
            of arXiv 2003.04297, section 3.
        K: keys in the queue, a multiple of the images of a step.
        m: share of the twin that stays at each step.
        T: temperature τ of the loss.
        split_batch_norm: how many parts of a batch batch norms treat by themselves.
        probe: see ``add_probe``.

    Shape:
        see ``SelfSupervised``; ``scalars`` also has ``contrast_top1``, the share of queries, in %,
        to which their key is more similar than all those of the queue. A network that knows nothing
        has a loss of ``log(1 + K)``; it rises while random keys make room for real ones.
    """

    default_projector = {"hidden": 2048, "out": 128, "layers": 2, "norm": False, "init": "torch"}

    def __init__(
        self,
        architecture: Mapping[str, Any],
        projector: Optional[Mapping[str, Any]] = None,
        K: int = 65536,
        m: float = 0.999,
        T: float = 0.2,
        split_batch_norm: int = 1,
        probe: Optional[Mapping[str, Any]] = None,
    ):
        super().__init__(architecture, projector)
        check_temperature(T)
        check_share("m", m)
        for name, number in (("K", K), ("split_batch_norm", split_batch_norm)):
            if number < 1:
                raise PasslError(f"{name} is at least 1, not {number}")
        self.K, self.m, self.T, self.split_batch_norm = K, m, T, split_batch_norm
        self.least_batch = 2 * split_batch_norm
        split_batch_norms(self, split_batch_norm)
        self.twin = MomentumTwin(backbone=self.backbone, projector=self.projector)
        self.queue = KeyQueue(K, self.projector.out_channels)
        self._fresh: Dict[str, paddle.Tensor] = {}  # the keys of the step that is being made
        self.add_probe(probe)

    def start_twin(self) -> None:
        self.twin.follow(self)

    def learn(self, batch):
        count = batch["image_1"].shape[0]
        mine = slice(process_rank() * count, (process_rank() + 1) * count)
        order = self._order(count)  # before anything else has drawn
        features = self.backbone(batch["image"])
        queries = unit(self.projector(features))
        with paddle.no_grad():
            everybodys = self._keys(batch["image_1"], order, mine)
        with paddle.amp.auto_cast(enable=False):
            loss, right = info_nce(queries, everybodys[mine], self.queue.keys, self.T)
            spreading = spread(queries.detach())
        self._fresh["keys"] = everybodys
        scalars = {"contrast_top1": 100.0 * right, "spread": spreading}
        return {"loss": loss, "scalars": scalars, "features": features}

    def after_step(self, step, total_steps, weights, finite):
        # For the next step: the authors' code does it at the beginning of that one.
        self.twin.update(weights, self.m, finite)
        self.queue.enqueue(self._fresh.pop("keys"), finite)

    def _order(self, count: int) -> Optional[paddle.Tensor]:
        """Returns the order in which keys are made, ``[N]``, the same in all processes.

        It is the first thing that is drawn after a step is seeded, and so a function of (seed,
        step), whatever the number of processes. None where it would make no difference.
        """
        apart = process_count() > 1 and not has_sync_batch_norms(self.twin)
        if not (apart or self.split_batch_norm > 1) or not has_batch_norms(self.twin):
            return None
        order = paddle.randperm(count * process_count())
        broadcast(order)
        return order

    def _keys(
        self, images: paddle.Tensor, order: Optional[paddle.Tensor], mine: slice
    ) -> paddle.Tensor:
        """Returns the keys of everybody's images, ``[N, d]``; ``mine`` are this process's."""
        if order is None:
            return all_gather(unit(self.twin(images)))
        shuffled = paddle.gather(all_gather(images), order[mine])
        everybodys = all_gather(unit(self.twin(shuffled)))
        return paddle.gather(everybodys, paddle.argsort(order))

    def check_batches(self, images: int, per_process: int, processes: int) -> None:
        super().check_batches(images, per_process, processes)
        batch, splits = per_process * processes, self.split_batch_norm
        if self.K % batch:
            nearest = max(batch, round(self.K / batch) * batch)
            raise PasslError(
                f"the queue has K = {self.K} keys, which batches of {batch} images do not fill "
                f"evenly; set -o model.K={nearest}, or another batch size"
            )
        if per_process % splits:
            raise PasslError(
                f"batches of {per_process} images a process have no {splits} equal parts; set -o "
                "model.split_batch_norm=1, or another dataloader.train.sampler.batch_size"
            )
        if self.K > images:
            logger.warning(
                "the queue holds %d keys, more than the %d images of the training set: older keys "
                "of an image are negatives of itself; a smaller model.K is better", self.K, images,
            )  # fmt: skip


def info_nce(
    queries: paddle.Tensor, keys: paddle.Tensor, negatives: paddle.Tensor, temperature: float
) -> Tuple[paddle.Tensor, paddle.Tensor]:
    """The cross-entropy of finding each query's key among negatives that all queries share.

    arXiv 1911.05722, equation 1.

    Args:
        queries, keys: unit vectors ``[n, d]``; row i of both is of the same image.
        negatives: ``[K, d]``.
        temperature: τ.

    Returns:
        the mean over the queries, and the share of them, in [0, 1], to which their key is the most
        similar one; scalars.
    """
    positive = (queries * keys).sum(axis=1, keepdim=True)
    negative = paddle.matmul(queries, negatives.astype(queries.dtype), transpose_y=True)
    logits = paddle.concat([positive, negative], axis=1) / temperature
    # Not F.cross_entropy, which on a processor takes no probability for less than exp(-64).
    loss = (paddle.logsumexp(logits, axis=1) - logits[:, 0]).mean()
    right = (positive.detach() > negative.detach().max(axis=1, keepdim=True)).astype(loss.dtype)
    return loss, right.mean()
