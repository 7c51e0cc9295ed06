"""Mirroring."""

from __future__ import annotations

from typing import Any, Dict

import numpy as np
from PIL import Image

from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform
from passl.utils.errors import PasslError

Sample = Dict[str, Any]


class _RandomFlip(Transform):
    """Mirrors the image with probability ``p``."""

    method: Image.Transpose

    def __init__(self, p: float = 0.5):
        if not 0 <= p <= 1:
            raise PasslError(f"p is a probability, not {p}")
        self.p = p

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.p:
            return sample
        return {**sample, "image": sample["image"].transpose(self.method)}


@TRANSFORMS.register
class RandomHorizontalFlip(_RandomFlip):
    """Swaps left and right with probability ``p``."""

    method = Image.Transpose.FLIP_LEFT_RIGHT


@TRANSFORMS.register
class RandomVerticalFlip(_RandomFlip):
    """Swaps top and bottom with probability ``p``."""

    method = Image.Transpose.FLIP_TOP_BOTTOM
