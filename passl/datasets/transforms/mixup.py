"""Mixing the images of a batch with one another, and their labels."""

from __future__ import annotations

import math
from typing import Any, Dict, Optional, Tuple

import numpy as np
import paddle

from passl.datasets.dataset import image_fields
from passl.datasets.registry import BATCH_TRANSFORMS
from passl.datasets.transforms.base import BatchTransform
from passl.utils.errors import PasslError


@BATCH_TRANSFORMS.register
class Mixup(BatchTransform):
    """Mixup (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899).

    Every image gets a partner from its own batch, along a random cycle through all of them, so
    that none is its own. Mixup adds up ``λ`` of the image and ``1 - λ`` of its partner; CutMix puts
    a box of the partner's pixels, with a share ``1 - λ`` of the area, into the image, and takes for
    λ what is left of the image where the border cuts the box off. λ is drawn from Beta(α, α).

    Mixup takes max(λ, 1 - λ), as the authors of MLP-Mixer do: a batch holds the same pairs and
    shares either way, and the label remains that of the larger share.

    Args:
        mixup_alpha: α of mixup (MLP-Mixer, table 4: 0.5); 0 does without it.
        cutmix_alpha: α of CutMix; 0 does without it.
        switch_probability: that of CutMix where both are there.
        probability: that anything is mixed at all.
        mode: ``batch`` draws once for a whole batch, ``element`` for every image.

    Shape:
        ``image``: float ``[N, C, H, W]``; ``label``: int64 ``[N]`` stays.
        Added: ``partner_label``, int64 ``[N]``, and ``partner_weight``, float32 ``[N]``, its share
        ``1 - λ`` in the target.

    Raises:
        PasslError: an argument out of bounds, images that are not yet floats, several images a
            sample, or samples without labels.
    """

    random = True

    def __init__(
        self,
        mixup_alpha: float = 0.5,
        cutmix_alpha: float = 0.0,
        switch_probability: float = 0.5,
        probability: float = 1.0,
        mode: str = "batch",
    ):
        alphas = (mixup_alpha, cutmix_alpha)
        if not all(0 <= alpha < math.inf for alpha in alphas) or max(alphas) == 0:
            raise PasslError(
                "mixup_alpha and cutmix_alpha are finite and at least 0, one of them above it; not "
                f"{mixup_alpha} and {cutmix_alpha}"
            )
        for name, value in (
            ("switch_probability", switch_probability),
            ("probability", probability),
        ):
            if not 0 <= value <= 1:
                raise PasslError(f"{name} lies in [0, 1], not {value}")
        if mode not in ("batch", "element"):
            raise PasslError(f"mode is 'batch' or 'element', not '{mode}'")
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.probability, self.mode = probability, mode
        self.cutmix_share = switch_probability
        if not cutmix_alpha or not mixup_alpha:
            self.cutmix_share = float(cutmix_alpha > 0)

    def draw(
        self, count: int, height: int, width: int, rng: np.random.Generator
    ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draws how ``count`` images are mixed.

        Returns:
            λ of the target, float64 ``[count]``; whether an image gets a box, bool ``[count]``;
            the boxes (left, upper, right, lower) in pixels, int64 ``[count, 4]``.
        """
        draws = count if self.mode == "element" else 1
        mixing = rng.random(draws) < self.probability
        boxed = mixing & (rng.random(draws) < self.cutmix_share)
        # Both are drawn for all, so that what one image gets does not depend on the others.
        share = np.ones((2, draws))
        for i, alpha in enumerate((self.mixup_alpha, self.cutmix_alpha)):
            if alpha:
                share[i] = rng.beta(alpha, alpha, draws)
        faded = np.maximum(share[0], 1 - share[0])
        side = np.sqrt(1 - share[1])  # of the box, as a share of the image's
        centre = np.stack([rng.integers(width, size=draws), rng.integers(height, size=draws)], 1)
        half = np.stack([(width * side).astype(int), (height * side).astype(int)], 1) // 2
        limit = np.array([width, height])
        boxes = np.concatenate(
            [np.clip(centre - half, 0, limit), np.clip(centre + half, 0, limit)], axis=1
        )
        left_over = 1 - np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / (width * height)
        share = np.where(boxed, left_over, np.where(mixing, faded, 1.0))
        repeat = count // draws if draws else 1
        return np.repeat(share, repeat), np.repeat(boxed, repeat), np.repeat(boxes, repeat, axis=0)

    def __call__(
        self, batch: Dict[str, Any], rng: Optional[np.random.Generator] = None
    ) -> Dict[str, Any]:
        assert rng is not None
        if image_fields(batch) != ["image"] or "label" not in batch:
            raise PasslError(
                "Mixup mixes one image a sample and its label, but a batch has the fields "
                f"{', '.join(batch)}; leave it out of the batch_transforms"
            )
        image, label = batch["image"], batch["label"]
        if not paddle.is_floating_point(image):
            raise PasslError("Mixup needs images of floats; put it after Normalize")
        count, _, height, width = image.shape
        share, boxed, boxes = self.draw(count, height, width, rng)
        order = rng.permutation(count)
        partner = np.empty(count, np.int64)
        partner[order] = np.roll(order, -1)
        partner = paddle.to_tensor(partner)
        other = paddle.index_select(image, partner)
        if not boxed.all():
            # An image that gets a box is not faded besides.
            weight = paddle.to_tensor(np.where(boxed, 1.0, share).astype(np.float32))
            weight = weight.astype(image.dtype).reshape([-1, 1, 1, 1])
            faded = image * weight + other * (1 - weight)
        else:
            faded = image
        if boxed.any():
            corner = paddle.to_tensor(np.where(boxed[:, None], boxes, 0)).reshape([-1, 4, 1, 1, 1])
            left, upper, right, lower = (corner[:, i] for i in range(4))
            x = paddle.arange(width).reshape([1, 1, 1, -1])
            y = paddle.arange(height).reshape([1, 1, -1, 1])
            inside = (x >= left) & (x < right) & (y >= upper) & (y < lower)
            faded = paddle.where(inside, other, faded)
        return {
            **batch,
            "image": faded,
            "partner_label": paddle.index_select(label, partner),
            "partner_weight": paddle.to_tensor((1 - share).astype(np.float32)),
        }
