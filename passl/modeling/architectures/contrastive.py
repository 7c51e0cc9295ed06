"""What architectures share whose loss is one of embeddings, and of nothing else in the network."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Sequence, Tuple

import paddle

from passl.modeling.architectures.base import Architecture

# The field of a batch that has gradients with respect to its embeddings: see ``Contrastive``.
PULL = "embedding_gradients"


class Contrastive(Architecture):
    """Base of architectures that embed each sample by itself and compare the embeddings.

    So the gradient of a batch that is too large for a device can be computed in two passes over its
    parts (Gao, Zhang, Han, Callan: "Scaling Deep Contrastive Learning Batch Size under Memory
    Limited Setup", arXiv 2101.06983, "GradCache"): the embeddings of all parts, the gradient of the
    loss with respect to them, and then each part again, whose embeddings are pulled along it.

    Attributes:
        additive, equal_batches, two_pass: see ``Architecture``.
    """

    additive = False
    equal_batches = True
    two_pass = True

    def embed(self, batch: Mapping[str, paddle.Tensor]) -> Tuple[paddle.Tensor, ...]:
        """Returns the embeddings of a batch that the loss compares, ``[n, …]`` each."""
        raise NotImplementedError

    def compare(self, embeddings: Sequence[paddle.Tensor]) -> Dict[str, Any]:
        """Returns ``loss`` and ``scalars`` of embeddings, which ``embed`` has made."""
        raise NotImplementedError

    def compared_by(self) -> Sequence[paddle.Tensor]:
        """Returns the parameters that ``compare`` uses: a scale, a bias."""
        return ()

    def learn(self, batch: Mapping[str, Any]) -> Dict[str, Any]:
        """Returns ``loss`` and ``scalars`` of a batch.

        Where the batch has gradients (``PULL``), the loss is the sum of the products of them with
        the embeddings and, as far as there are more, with the parameters of ``compared_by``: what
        has them as its gradients.
        """
        embeddings = self.embed(batch)
        if PULL not in batch:
            return self.compare(embeddings)
        pulled = (*embeddings, *self.compared_by())
        return {"loss": sum((one * g).sum() for one, g in zip(pulled, batch[PULL]))}
