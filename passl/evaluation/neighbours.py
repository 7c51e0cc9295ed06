"""k nearest neighbours: how good features are, without training anything on them.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", arXiv
1805.01978, section 3.4: each image is compared with a bank of labelled images, and its nearest ones
vote for their classes with the weight exp(similarity / T).
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Tuple

import numpy as np
import paddle
from paddle.nn import functional as F

from passl.datasets import Loader
from passl.distributed.collectives import gather_rows
from passl.evaluation.base import Evaluation, Evaluator, Figure
from passl.evaluation.gathering import in_order, indices
from passl.evaluation.metrics import label_ranks
from passl.evaluation.registry import EVALUATORS
from passl.modeling.layers.embeddings import effective_rank, spread
from passl.utils.errors import PasslError

_QUERIES = 4096  # that are compared with a batch of the bank at a time
_NONE = -1  # the key of no neighbour
_SCALE = 2.0**29  # similarities are compared in steps of 2^-29, finer than float32 near 1


@EVALUATORS.register
class Neighbours(Evaluator):
    """Accuracy of a vote of the k nearest images of a bank, by cosine similarity of features.

    The architecture gives ``features`` ``[N, C]``. The bank is the section ``dataloader.bank``, or
    the training images as ``val`` sees its own. An image is no neighbour of itself: where bank and
    set are the same images, each is left out of its own vote.

    Of equally similar images those that come first in the bank are nearer; of classes with equal
    votes the one with the lower number wins. The result does not depend on the number of processes,
    and the bank is never held as a whole.

    Two figures tell whether the features collapse: their ``spread`` over the sphere and their
    ``effective_rank``. The first stays high where they collapse into a few dimensions.

    Args:
        k: neighbours that vote; all of a bank that has fewer.
        temperature: T.
    """

    figures = {
        "knn_top1": Figure("kNN Top-1", "{:.2f} %"),
        "knn_top5": Figure("kNN Top-5", "{:.2f} %"),
        "spread": Figure("spread", "{:.2f}"),
        "effective_rank": Figure("effective rank", "{:.1f}"),
    }
    also_reads = ("bank",)

    def __init__(self, k: int = 20, temperature: float = 0.07):
        if k < 1:
            raise PasslError(f"k is a number of neighbours, at least 1, not {k}")
        if not temperature > 0:
            raise PasslError(f"temperature is above 0, not {temperature}")
        self.k, self.temperature = k, temperature

    def measure(
        self, evaluation: Evaluation, loader: Loader, also: Mapping[str, Loader]
    ) -> Dict[str, Any]:
        bank = also["bank"]
        queries, labels = self._queries(evaluation, loader)
        same = bank.dataset.digest() == loader.dataset.digest()
        keys = self._nearest(evaluation, queries, bank, same)
        found = keys.numpy()
        chosen = np.where(found == _NONE, 0, _index(found))
        similarity = _similarity(found)
        # Less the largest, so that no vote overflows; all scores of an image shrink alike.
        votes = np.exp((similarity - similarity[:, :1]) / self.temperature)
        votes[found == _NONE] = 0.0
        classes = int(max(labels.max(), bank.dataset.labels.max())) + 1
        scores = np.zeros((len(labels), classes))
        rows = np.repeat(np.arange(len(labels)), found.shape[1])
        np.add.at(scores, (rows, bank.dataset.labels[chosen].ravel()), votes.ravel())
        ranks = label_ranks(paddle.to_tensor(scores), paddle.to_tensor(labels)).numpy()
        return {
            "knn_top1": 100.0 * float((ranks < 1).mean()),
            "knn_top5": 100.0 * float((ranks < 5).mean()),
            "spread": spread(queries).item(),
            "effective_rank": effective_rank(queries),
            "k": self.k,
            "temperature": self.temperature,
            "bank": len(bank.dataset),
        }

    def _queries(self, evaluation: Evaluation, loader: Loader) -> Tuple[paddle.Tensor, np.ndarray]:
        """Returns the features ``[n, C]`` and labels ``[n]`` of all images, in their order."""
        features, labels = [], []
        for outputs, batch in evaluation.outputs(loader):
            features.append(_normalised(outputs).numpy())
            labels.append(batch["label"].numpy()[:, None])
        evaluation.sum([])
        own = indices(loader)
        return paddle.to_tensor(in_order(features, own)), in_order(labels, own)[:, 0]

    def _nearest(
        self, evaluation: Evaluation, queries: paddle.Tensor, bank: Loader, same: bool
    ) -> paddle.Tensor:
        """Returns the keys of the nearest images of each query, int64 ``[n, k]``, nearest first.

        A process goes through its part of the bank, batch by batch, and keeps the nearest so far.
        """
        nearest = paddle.full([queries.shape[0], self.k], _NONE, "int64")
        place, own = 0, indices(bank)
        for outputs, _ in evaluation.outputs(bank, "bank"):
            features = _normalised(outputs)
            index = paddle.to_tensor(own[place : place + features.shape[0]])
            place += features.shape[0]
            parts = []
            for begin in range(0, queries.shape[0], _QUERIES):
                rows = slice(begin, begin + _QUERIES)
                keys = _keys(queries[rows] @ features.T, index)
                if same:
                    numbers = paddle.arange(begin, begin + keys.shape[0], dtype="int64")
                    keys = paddle.where(
                        numbers.unsqueeze(1) == index, paddle.full_like(keys, _NONE), keys
                    )
                parts.append(_largest(paddle.concat([nearest[rows], keys], axis=1), self.k))
            nearest = paddle.concat(parts)
        evaluation.sum([])
        # One process after the other beneath one another: [processes, n, k].
        everybodys = gather_rows(nearest.numpy()[None])
        return _largest(paddle.to_tensor(np.concatenate(list(everybodys), axis=1)), self.k)


def _normalised(outputs: Dict[str, Any]) -> paddle.Tensor:
    """Returns the features of a batch on the unit sphere, float32 ``[N, C]``.

    Raises:
        PasslError: there are none, or they are not finite.
    """
    if "features" not in outputs:
        raise PasslError(
            "the evaluator Neighbours needs an architecture that returns 'features'; this one "
            f"returns {', '.join(outputs)}"
        )
    features = F.normalize(outputs["features"].astype("float32"), axis=1)
    if not bool(paddle.isfinite(features).all()):
        raise PasslError("the features of the network are not finite (NaN or infinity)")
    return features


# A neighbour is one integer, so that no two are equal: the similarity in the upper bits, the place
# in the bank in the lower ones, the first place the largest.


def _keys(similarity: paddle.Tensor, index: paddle.Tensor) -> paddle.Tensor:
    steps = paddle.round((paddle.clip(similarity, -1, 1).astype("float64") + 1) * _SCALE)
    return steps.astype("int64") * 2**32 + (2**32 - 1 - index)


def _similarity(keys: np.ndarray) -> np.ndarray:
    return (keys >> 32) / _SCALE - 1


def _index(keys: np.ndarray) -> np.ndarray:
    return 2**32 - 1 - (keys & (2**32 - 1))


def _largest(keys: paddle.Tensor, k: int) -> paddle.Tensor:
    return paddle.topk(keys, min(k, keys.shape[1]), axis=1)[0]
