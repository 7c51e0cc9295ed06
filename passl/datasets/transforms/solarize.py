"""Turning bright colours into their opposites."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np
from PIL import ImageOps

from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform, check_probability
from passl.utils.errors import PasslError


@TRANSFORMS.register
class RandomSolarize(Transform):
    """Inverts all values from a threshold on: 255 - v (BYOL, arXiv 2006.07733, appendix B).

    Args:
        probability: that it is done (BYOL's second view: 0.2).
        threshold: from which value on, 0 to 256; 128 stays below 128 and becomes 127 at 128.
    """

    def __init__(self, probability: float = 0.2, threshold: int = 128):
        check_probability(probability)
        if not 0 <= threshold <= 256:
            raise PasslError(f"threshold is a value of a pixel, 0 to 256, not {threshold}")
        self.probability, self.threshold = probability, threshold

    def __call__(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        if rng.random() >= self.probability:
            return sample
        solarized = ImageOps.solarize(sample["image"].to_pil(), self.threshold)
        return {**sample, "image": RgbImage(np.asarray(solarized))}
