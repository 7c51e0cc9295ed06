"""Random erasing (Zhong, Zheng, Kang, Li, Yang, arXiv 1708.04896)."""

from __future__ import annotations

import math
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import numpy as np

from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform, check_probability
from passl.utils.errors import PasslError


@TRANSFORMS.register
class RandomErasing(Transform):
    """Overwrites a box of random area and shape (algorithm 1).

    Args:
        probability: that a box is erased.
        scale: bounds of its share of the image area.
        ratio: bounds of height / width, drawn uniformly in the logarithm (as timm and torchvision
            do; the paper draws the ratio itself).
        fill: ``random``, a value for each pixel and channel (the paper's best), or a colour
            [red, green, blue].

    Raises:
        PasslError: an argument out of bounds.
    """

    def __init__(
        self,
        probability: float = 0.25,
        scale: Sequence[float] = (0.02, 1 / 3),
        ratio: Sequence[float] = (0.3, 1 / 0.3),
        fill: Union[str, Sequence[int]] = "random",
    ):
        check_probability(probability)
        for name, bounds, most in (("scale", scale, 1.0), ("ratio", ratio, math.inf)):
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= most:
                limit = f" ≤ {most:g}" if most < math.inf else ""
                raise PasslError(
                    f"{name} is [low, high] with 0 < low ≤ high{limit}, not {bounds!r}"
                )
        if fill != "random" and (
            isinstance(fill, str) or len(fill) != 3 or not 0 <= min(fill) <= max(fill) <= 255
        ):
            raise PasslError(f"fill is 'random' or [red, green, blue] in [0, 255], not {fill!r}")
        self.probability = probability
        self.scale, self.ratio = tuple(scale), tuple(ratio)
        self.fill = fill

    def box(
        self, width: int, height: int, rng: np.random.Generator
    ) -> Optional[Tuple[int, int, int, int]]:
        """Draws (left, upper, right, lower) in pixels; None where none of ten fits."""
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(*np.log(self.ratio)))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w < width and 0 < h < height:
                left = int(rng.integers(0, width - w + 1))
                top = int(rng.integers(0, height - h + 1))
                return left, top, left + w, top + h
        return None

    def __call__(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        image = sample["image"]
        if rng.random() >= self.probability:
            return sample
        box = self.box(image.width, image.height, rng)
        if box is None:
            return sample
        left, upper, right, lower = box
        pixels = np.array(image)  # a copy: what was cut out of an image shares its memory
        shape = pixels[upper:lower, left:right].shape
        pixels[upper:lower, left:right] = (
            rng.integers(0, 256, shape, np.uint8) if self.fill == "random" else self.fill
        )
        return {**sample, "image": RgbImage(pixels)}
