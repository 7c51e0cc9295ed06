"""Random changes of brightness, contrast, saturation and hue."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import Image, ImageEnhance

from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform, check_probability
from passl.utils.errors import PasslError

Strength = Union[float, Sequence[float]]
_ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}
_LARGEST = 10.0  # factor; with more, nothing is left of a picture


def shift_hue(image: Image.Image, turns: float) -> Image.Image:
    """Turns the hue by a share of the whole circle, to the nearest 256th."""
    hue, saturation, value = image.convert("HSV").split()
    shift = int(turns * 255)
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


@TRANSFORMS.register
class ColorJitter(Transform):
    """Changes brightness, contrast, saturation and hue, in random order (as torchvision's does).

    Args:
        brightness, contrast, saturation: x draws a factor from [max(0, 1 - x), 1 + x]; [low, high]
            says so directly; 0 leaves it alone. Factors are at most 10.
        hue: x, at most 0.5, turns the hue by up to x of the circle either way; [low, high] as well.
        probability: that the image is changed at all (SimCLR, arXiv 2002.05709: 0.8).

    Raises:
        PasslError: an argument out of bounds.
    """

    def __init__(
        self,
        brightness: Strength = 0.0,
        contrast: Strength = 0.0,
        saturation: Strength = 0.0,
        hue: Strength = 0.0,
        probability: float = 1.0,
    ):
        self.bounds = {
            "brightness": _bounds("brightness", brightness, 1.0, 0.0, _LARGEST),
            "contrast": _bounds("contrast", contrast, 1.0, 0.0, _LARGEST),
            "saturation": _bounds("saturation", saturation, 1.0, 0.0, _LARGEST),
            "hue": _bounds("hue", hue, 0.0, -0.5, 0.5),
        }
        check_probability(probability)
        self.probability = probability

    def __call__(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        if rng.random() >= self.probability:
            return sample
        image = sample["image"].to_pil()
        for name in rng.permutation(list(self.bounds)):
            bounds = self.bounds[name]
            if bounds is None:
                continue
            amount = rng.uniform(*bounds)
            image = (
                shift_hue(image, amount)
                if name == "hue"
                else _ENHANCERS[name](image).enhance(amount)
            )
        return {**sample, "image": RgbImage(np.asarray(image))}


def _bounds(
    name: str, strength: Strength, centre: float, least: float, most: float
) -> Optional[Tuple[float, float]]:
    """Returns what to draw from, None for nothing."""
    if isinstance(strength, (int, float)):
        low, high = centre - strength, centre + strength
        if centre:
            low = max(low, least)
    else:
        low, high = strength if len(strength) == 2 else (1.0, 0.0)
    if not least <= low <= high <= most:
        raise PasslError(
            f"{name} is a number in [0, {most - centre:g}], or [low, high] within [{least:g}, "
            f"{most:g}]; not {strength!r}"
        )
    return None if low == high == centre else (float(low), float(high))
