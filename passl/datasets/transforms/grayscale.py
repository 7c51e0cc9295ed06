"""Taking the colour away."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np

from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform, check_probability


@TRANSFORMS.register
class RandomGrayscale(Transform):
    """Makes the image grey: its luma (ITU-R BT.601) in all three channels, as Pillow computes it.

    Args:
        probability: that it is done (SimCLR, MoCo and BYOL: 0.2).
    """

    def __init__(self, probability: float = 0.2):
        check_probability(probability)
        self.probability = probability

    def __call__(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        if rng.random() >= self.probability:
            return sample
        grey = sample["image"].to_pil().convert("L").convert("RGB")
        return {**sample, "image": RgbImage(np.asarray(grey))}
