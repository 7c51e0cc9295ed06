"""TrivialAugment (Müller and Hutter, arXiv 2103.10158)."""

from __future__ import annotations

from typing import Any, Callable, Dict, Sequence, Tuple

import numpy as np

from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform
from passl.datasets.transforms.operations import OPERATIONS, Filling, signed

_LEVELS = 31  # a strength is one of 0 to 30

# The "wide" space (table 1, as the authors' code has it): the amount at a strength in [0, 1] for an
# image with the given side, and whether it gets a random sign. Translations are by whole pixels.
_Amount = Callable[[float, float], float]
WIDE: Dict[str, Tuple[_Amount, bool]] = {
    "Identity": (lambda strength, side: 0.0, False),
    "AutoContrast": (lambda strength, side: 0.0, False),
    "Equalize": (lambda strength, side: 0.0, False),
    "Rotate": (lambda strength, side: 135 * strength, True),
    "Solarize": (lambda strength, side: 255 - 255 * strength, False),
    "Color": (lambda strength, side: 0.99 * strength, True),
    "Posterize": (lambda strength, side: 8 - round(6 * strength), False),
    "Contrast": (lambda strength, side: 0.99 * strength, True),
    "Brightness": (lambda strength, side: 0.99 * strength, True),
    "Sharpness": (lambda strength, side: 0.99 * strength, True),
    "ShearX": (lambda strength, side: 0.99 * strength, True),
    "ShearY": (lambda strength, side: 0.99 * strength, True),
    "TranslateX": (lambda strength, side: int(32 * strength) / side, True),
    "TranslateY": (lambda strength, side: int(32 * strength) / side, True),
}
_FACTORS = ("Color", "Contrast", "Brightness", "Sharpness")


@TRANSFORMS.register
class TrivialAugment(Transform):
    """Applies one of fourteen operations, at a strength of 31, both drawn evenly; nothing to tune.

    Args:
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``random`` (of the last two).
        fill: the colour beside the image.

    Raises:
        PasslError: an unknown interpolation, or no colour.
    """

    def __init__(self, interpolation: str = "nearest", fill: Sequence[int] = (0, 0, 0)):
        self.operations = list(WIDE)
        self._filling = Filling(interpolation, fill)

    def __call__(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        image = sample["image"].to_pil()
        name = self.operations[rng.integers(len(self.operations))]
        strength = int(rng.integers(_LEVELS)) / (_LEVELS - 1)
        amount_at, has_sign = WIDE[name]
        amount = amount_at(strength, image.height if name == "TranslateY" else image.width)
        if has_sign:
            amount = signed(amount, rng)
        if name in _FACTORS:
            amount += 1
        image = OPERATIONS[name](image, amount, self._filling.canvas(rng))
        return {**sample, "image": RgbImage(np.asarray(image))}
