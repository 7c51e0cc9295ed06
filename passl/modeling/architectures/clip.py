"""CLIP.

Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger, Sutskever:
"Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020; the
authors' code is github.com/openai/CLIP. SigLIP: Zhai, Mustafa, Kolesnikov, Beyer, "Sigmoid Loss for
Language Image Pre-Training", arXiv 2303.15343.

Legend for shapes: N pairs of a batch of all processes, n of this process, d size of an embedding.
"""

from __future__ import annotations

import math
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

from passl.distributed.collectives import (
    all_gather_with_gradient,
    process_count,
    process_rank,
)
from passl.modeling.architectures.classifier import Network
from passl.modeling.architectures.contrastive import Contrastive
from passl.modeling.architectures.registry import ARCHITECTURES
from passl.modeling.backbones import build_backbone
from passl.modeling.heads.cosine import CosineHead
from passl.modeling.layers import Linear, normal_
from passl.modeling.layers.embeddings import unit
from passl.modeling.texts import build_text
from passl.tokenization import build_tokenizer
from passl.utils.config import origin_of
from passl.utils.errors import PasslError
from passl.utils.logging import logger

_LARGEST = math.log(100.0)  # of the logarithm of the scale; section 2.5 of CLIP's paper
# Where scale and bias of the logits begin: section 2.5 of CLIP, section 3.2 of SigLIP.
_SOFTMAX_SCALE = math.log(1 / 0.07)
_SIGMOID_SCALE, _SIGMOID_BIAS = math.log(10.0), -10.0


@ARCHITECTURES.register
class CLIP(Contrastive):
    """Tells the text of an image from the other texts of the batch, and the other way round.

    Negatives are the pairs of all processes, and their gradient goes to the process that they come
    from, so that k processes learn what one would with all the pairs. The scale of the
    similarities is learned by its logarithm, which stays in [0, ln 100] after each step; it does
    not decay.

    Args:
        architecture: config of the image tower: any backbone.
        text: config of the text tower, see ``passl.modeling.texts``; by default CLIP's of B/32.
        embed_dim: d.
        project_images: whether a linear map follows the image tower; CLIP's ResNets end in one.
        loss: ``softmax`` (CLIP) or ``sigmoid`` (SigLIP), which also learns a bias.
        freeze: parts that do not learn. ``[backbone]`` with a trained one is "locked-image tuning"
            (LiT; Zhai et al., arXiv 2111.07991).
        tokenizer: config of the tokenizer that texts are read with where they come as text, in
            zero-shot classification and retrieval; CLIP's by default.

    Shape:
        input: ``image`` ``[n, C, H, W]`` and ``text`` int64 ``[n, L]``; in evaluation one of them
        is enough;
        output: in training ``loss`` and ``scalars``: ``scale`` of the similarities, ``chance``, the
        loss of a network that knows nothing (ln N, of the softmax), ``image_top1`` and
        ``text_top1``, the share of images, and of texts, in %, whose partner is the most similar;
        in evaluation ``features`` ``[n, num_features]``, ``image_embedding`` and
        ``text_embedding`` ``[n, d]``, not normalised, and after ``use_classifier`` ``logits``.
    """

    evaluator = "Retrieval"
    excludes = ("to_static", "parallel.sharding")

    def __init__(
        self,
        architecture: Mapping[str, Any],
        text: Optional[Mapping[str, Any]] = None,
        embed_dim: int = 512,
        project_images: bool = True,
        loss: str = "softmax",
        freeze: Sequence[str] = (),
        tokenizer: Optional[Mapping[str, Any]] = None,
    ):
        super().__init__()
        if loss not in ("softmax", "sigmoid"):
            raise PasslError(f"loss is softmax or sigmoid, not {loss!r}")
        self.embed_dim, self.loss = embed_dim, loss
        # Paddle's O2 would round what lies here, scale and bias, to 16 bits.
        self._cast_to_low_precision = False
        self.backbone = build_backbone(architecture)
        self.text = build_text(text or {})
        self.tokenizer = build_tokenizer(tokenizer)
        if self.tokenizer.size > self.text.vocabulary:
            raise PasslError(
                f"the tokenizer has {self.tokenizer.size} ids, the text tower's vocabulary "
                f"{self.text.vocabulary}; set text.vocabulary={self.tokenizer.size}",
                place=origin_of(text or {}, "vocabulary"),
            )
        # Else all texts would have the features of their first id.
        end = getattr(self.text, "end", self.tokenizer.end)
        if end != self.tokenizer.end:
            raise PasslError(
                f"the tokenizer ends a text with the id {self.tokenizer.end}, the text tower looks "
                f"for {end}; set text.end={self.tokenizer.end}",
                place=origin_of(text or {}, "end"),
            )
        self.image_projection = None
        if project_images:
            self.image_projection = _projection(self.backbone.num_features, embed_dim)
        elif self.backbone.num_features != embed_dim:
            raise PasslError(
                f"without a projection the image tower's {self.backbone.num_features} features are "
                f"compared as they are, but embed_dim is {embed_dim}; set project_images=true, or "
                f"embed_dim={self.backbone.num_features}"
            )
        self.text_projection = _projection(self.text.num_features, embed_dim)
        scale = _SOFTMAX_SCALE if loss == "softmax" else _SIGMOID_SCALE
        self.logit_scale = _scalar(self, scale)
        self.logit_bias = _scalar(self, _SIGMOID_BIAS) if loss == "sigmoid" else None
        # Embeddings of different classes, and which of them each class has.
        self._classifier: Optional[paddle.Tensor] = None
        self._classes: Optional[paddle.Tensor] = None
        self.freeze(freeze)

    @property
    def context(self) -> int:
        """The most ids of a text."""
        return self.text.context

    @property
    def num_classes(self) -> Optional[int]:
        """Number of classes that the logits speak of; None without ``use_classifier``."""
        return None if self._classes is None else self._classes.shape[0]

    def embed_images(self, images: paddle.Tensor) -> paddle.Tensor:
        """Returns the embeddings of images ``[n, C, H, W]``, ``[n, d]``, not normalised."""
        return self._projected(self.backbone(images))

    def embed_texts(self, ids: paddle.Tensor) -> paddle.Tensor:
        """Returns the embeddings of texts, int64 ``[n, L]``, ``[n, d]``, not normalised."""
        return self.text_projection(self.text(ids))

    def use_classifier(self, classifier: Optional[paddle.Tensor]) -> None:
        """Lets evaluation give ``logits``: the scaled similarities of an image and each class.

        Classes with equal embeddings have equal logits, to the last bit.

        Args:
            classifier: an embedding of each class, ``[K, d]``; None gives no more logits.
        """
        if classifier is None:
            self._classifier = self._classes = None
            return
        # A product does not give equal columns equal sums: each is computed once.
        rows, places = np.unique(classifier.numpy(), axis=0, return_inverse=True)
        self._classifier = unit(paddle.to_tensor(rows))
        self._classes = paddle.to_tensor(places.reshape(-1))

    @paddle.no_grad()
    def as_network(self, classifier: paddle.Tensor) -> Network:
        """Returns the image tower, not a copy of it, with a head that tells classes apart.

        Its logits are those after ``use_classifier``, but that classes with equal embeddings may
        differ in the last bit.

        Args:
            classifier: an embedding of each class, ``[K, d]``.
        """
        width, projection = self.backbone.num_features, self.image_projection
        embed_dim = None if projection is None else self.embed_dim
        head = CosineHead(width, classifier.shape[0], embed_dim)
        if projection is not None:
            head.projection.weight.set_value(projection.weight)
        head.fc.weight.set_value(self.logit_scale.exp() * unit(classifier).T)
        return Network.of(self.backbone, head)

    def embed(self, batch: Mapping[str, paddle.Tensor]) -> Tuple[paddle.Tensor, ...]:
        if "text" not in batch:
            raise PasslError(
                "CLIP learns from pairs, and a batch has no text; put {name: Tokenize} at the end "
                "of the transforms of dataloader.train, whose set must have captions"
            )
        return unit(self.embed_images(batch["image"])), unit(self.embed_texts(batch["text"]))

    def compare(self, embeddings: Sequence[paddle.Tensor]) -> Dict[str, Any]:
        images, texts = embeddings
        scale = self.logit_scale.exp()
        with paddle.amp.auto_cast(enable=False):
            if self.loss == "softmax":
                loss, rights = softmax_loss(images, texts, scale)
            else:
                loss, rights = sigmoid_loss(images, texts, scale, self.logit_bias)
        scalars = {"scale": scale.detach()}
        if self.loss == "softmax":
            total = images.shape[0] * process_count()
            scalars["chance"] = paddle.full([], math.log(total), loss.dtype)
        for name, right in zip(("image_top1", "text_top1"), rights):
            scalars[name] = 100.0 * right
        return {"loss": loss, "scalars": scalars}

    def compared_by(self) -> Sequence[paddle.Tensor]:
        parameters = (self.logit_scale, self.logit_bias)
        return [p for p in parameters if p is not None and not p.stop_gradient]

    def forward(self, batch):
        if self.training:
            return self.learn(batch)
        outputs = {}
        if "image" in batch:
            outputs["features"] = self.backbone(batch["image"])
            outputs["image_embedding"] = self._projected(outputs["features"])
            if self._classifier is not None:
                classes = self._classifier.astype(unit(outputs["image_embedding"]).dtype)
                similarity = unit(outputs["image_embedding"]) @ classes.T
                logits = self.logit_scale.exp() * similarity
                outputs["logits"] = paddle.gather(logits, self._classes, axis=1)
        if "text" in batch:
            outputs["text_embedding"] = self.embed_texts(batch["text"])
        return outputs

    @paddle.no_grad()
    def after_step(self, step, total_steps, weights, finite):
        if "logit_scale" in weights:
            scale = weights["logit_scale"]
            paddle.assign(paddle.clip(scale, 0.0, _LARGEST), scale)

    def check_batches(self, images: int, per_process: int, processes: int) -> None:
        if per_process * processes < 2:
            raise PasslError(
                "CLIP tells the pairs of a batch from one another, and the batch is one pair; set "
                "dataloader.train.sampler.batch_size to 2 at least"
            )
        if self.loss == "softmax":
            total = per_process * processes
            chance = math.log(total)
            logger.info("a network that knows nothing has a loss of ln %d = %.4f", total, chance)

    def _projected(self, features: paddle.Tensor) -> paddle.Tensor:
        return features if self.image_projection is None else self.image_projection(features)


def _projection(width: int, embed_dim: int) -> Linear:
    projection = Linear(width, embed_dim, bias_attr=False)
    normal_(projection.weight, std=width**-0.5)
    return projection


def _scalar(layer: nn.Layer, value: float) -> paddle.Tensor:
    return layer.create_parameter([], default_initializer=nn.initializer.Constant(value))


def softmax_loss(
    images: paddle.Tensor, texts: paddle.Tensor, scale: paddle.Tensor
) -> Tuple[paddle.Tensor, Tuple[paddle.Tensor, paddle.Tensor]]:
    """The mean of two cross-entropies: of finding each image's text, and each text's image.

    arXiv 2103.00020, figure 3. It is that of this process's pairs among those of all processes; the
    mean over the processes is that of the whole batch.

    Args:
        images, texts: unit vectors ``[n, d]``; row i of both is one pair.
        scale: factor of the similarities, a scalar.

    Returns:
        the loss, and the share in [0, 1] of images whose text is the most similar one, and of texts
        whose image is; scalars.
    """
    n, width = images.shape
    own = paddle.arange(n) + process_rank() * n
    # [N, 2d] of all processes, so that they are exchanged in one piece.
    everybodys = all_gather_with_gradient(paddle.concat([images, texts], axis=1))
    positive = scale * (images * texts).sum(axis=1)
    losses, rights = [], []
    for ours, others in ((images, everybodys[:, width:]), (texts, everybodys[:, :width])):
        similarity = scale * (ours @ others.T)
        # Not F.cross_entropy, which on a processor takes no probability for less than exp(-64).
        losses.append((paddle.logsumexp(similarity, axis=1) - positive).mean())
        rights.append(_share_right(similarity, own))
    return (losses[0] + losses[1]) / 2.0, (rights[0], rights[1])


def sigmoid_loss(
    images: paddle.Tensor, texts: paddle.Tensor, scale: paddle.Tensor, bias: paddle.Tensor
) -> Tuple[paddle.Tensor, Tuple[paddle.Tensor]]:
    """The sum over all texts of whether they are the image's, by a sigmoid; its mean over images.

    ``ln(1 + exp(-y (scale · similarity + bias)))`` with y = 1 for a pair and -1 for any other:
    arXiv 2303.15343, equation 2. As of ``softmax_loss``, it is that of this process's images.

    Args:
        images, texts: unit vectors ``[n, d]``; row i of both is one pair.
        scale, bias: of the similarities, scalars.

    Returns:
        the loss, and the share in [0, 1] of images whose text is the most similar one; scalars.
    """
    n = images.shape[0]
    own = paddle.arange(n) + process_rank() * n
    logits = scale * (images @ all_gather_with_gradient(texts).T) + bias
    pairs = paddle.nn.functional.one_hot(own, logits.shape[1]).astype(logits.dtype)
    wrong = logits * (1.0 - 2.0 * pairs)
    # ln(1 + exp(x)) to the last digit; Paddle's softplus is x from 20 on.
    each = paddle.clip(wrong, min=0.0) + paddle.log1p(paddle.exp(-wrong.abs()))
    return each.sum(axis=1).mean(), (_share_right(logits, own),)


def _share_right(similarity: paddle.Tensor, own: paddle.Tensor) -> paddle.Tensor:
    return (similarity.detach().argmax(axis=1) == own).astype(similarity.dtype).mean()
