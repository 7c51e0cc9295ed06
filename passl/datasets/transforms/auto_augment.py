"""AutoAugment (Cubuk, Zoph, Mane, Vasudevan, Le, arXiv 1805.09501)."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform
from passl.datasets.transforms.operations import OPERATIONS, Filling, signed
from passl.utils.errors import PasslError

# Table 6: the amount at a level (magnitude / 10), and whether it gets a random sign. Translations
# are by 150 of the 331 pixels that the authors' images have.
AMOUNTS: Dict[str, Tuple[Callable[[float], float], bool]] = {
    "ShearX": (lambda level: 0.3 * level, True),
    "ShearY": (lambda level: 0.3 * level, True),
    "TranslateX": (lambda level: 150 / 331 * level, True),
    "TranslateY": (lambda level: 150 / 331 * level, True),
    "Rotate": (lambda level: 30 * level, True),
    "Posterize": (lambda level: 4 + int(4 * level), False),
    "Solarize": (lambda level: int(256 * level), False),
    "Contrast": (lambda level: 0.1 + 1.8 * level, False),
    "Color": (lambda level: 0.1 + 1.8 * level, False),
    "Brightness": (lambda level: 0.1 + 1.8 * level, False),
    "Sharpness": (lambda level: 0.1 + 1.8 * level, False),
    "AutoContrast": (lambda level: 0.0, False),
    "Equalize": (lambda level: 0.0, False),
    "Invert": (lambda level: 0.0, False),
}

# Tables 9 and 7. A line is a sub-policy: operation, probability and magnitude, twice.
_IMAGENET = """
Posterize    0.4 8   Rotate       0.6 9
Solarize     0.6 5   AutoContrast 0.6 5
Equalize     0.8 8   Equalize     0.6 3
Posterize    0.6 7   Posterize    0.6 6
Equalize     0.4 7   Solarize     0.2 4
Equalize     0.4 4   Rotate       0.8 8
Solarize     0.6 3   Equalize     0.6 7
Posterize    0.8 5   Equalize     1.0 2
Rotate       0.2 3   Solarize     0.6 8
Equalize     0.6 8   Posterize    0.4 6
Rotate       0.8 8   Color        0.4 0
Rotate       0.4 9   Equalize     0.6 2
Equalize     0.0 7   Equalize     0.8 8
Invert       0.6 4   Equalize     1.0 8
Color        0.6 4   Contrast     1.0 8
Rotate       0.8 8   Color        1.0 2
Color        0.8 8   Solarize     0.8 7
Sharpness    0.4 7   Invert       0.6 8
ShearX       0.6 5   Equalize     1.0 9
Color        0.4 0   Equalize     0.6 3
Equalize     0.4 7   Solarize     0.2 4
Solarize     0.6 5   AutoContrast 0.6 5
Invert       0.6 4   Equalize     1.0 8
Color        0.6 4   Contrast     1.0 8
Equalize     0.8 8   Equalize     0.6 3
"""
_CIFAR10 = """
Invert       0.1 7   Contrast     0.2 6
Rotate       0.7 2   TranslateX   0.3 9
Sharpness    0.8 1   Sharpness    0.9 3
ShearY       0.5 8   TranslateY   0.7 9
AutoContrast 0.5 8   Equalize     0.9 2
ShearY       0.2 7   Posterize    0.3 7
Color        0.4 3   Brightness   0.6 7
Sharpness    0.3 9   Brightness   0.7 9
Equalize     0.6 5   Equalize     0.5 1
Contrast     0.6 7   Sharpness    0.6 5
Color        0.7 7   TranslateX   0.5 8
Equalize     0.3 7   AutoContrast 0.4 8
TranslateY   0.4 3   Sharpness    0.2 6
Brightness   0.9 6   Color        0.2 8
Solarize     0.5 2   Invert       0.0 3
Equalize     0.2 0   AutoContrast 0.6 0
Equalize     0.2 8   Equalize     0.6 4
Color        0.9 9   Equalize     0.6 6
AutoContrast 0.8 4   Solarize     0.2 8
Brightness   0.1 3   Color        0.7 0
Solarize     0.4 5   AutoContrast 0.9 3
TranslateY   0.9 9   TranslateY   0.7 9
AutoContrast 0.9 2   Solarize     0.8 3
Equalize     0.8 8   Invert       0.1 3
TranslateY   0.7 9   AutoContrast 0.9 1
"""

Step = Tuple[str, float, int]


def _parse(table: str) -> List[Tuple[Step, Step]]:
    rows = [line.split() for line in table.strip().splitlines()]
    return [((r[0], float(r[1]), int(r[2])), (r[3], float(r[4]), int(r[5]))) for r in rows]


POLICIES = {"imagenet": _parse(_IMAGENET), "cifar10": _parse(_CIFAR10)}


@TRANSFORMS.register
class AutoAugment(Transform):
    """Applies one sub-policy, drawn from those that were found for a data set.

    Args:
        policy: ``imagenet`` or ``cifar10``.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``random`` (of the last two).
        fill: the colour beside the image.

    Raises:
        PasslError: an unknown policy or interpolation, or no colour.
    """

    def __init__(
        self,
        policy: str = "imagenet",
        interpolation: str = "nearest",
        fill: Sequence[int] = (128, 128, 128),
    ):
        if policy not in POLICIES:
            raise PasslError(f"policy is one of {', '.join(POLICIES)}, not '{policy}'")
        self.policy = POLICIES[policy]
        self._filling = Filling(interpolation, fill)

    def __call__(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        image = sample["image"].to_pil()
        for name, probability, magnitude in self.policy[rng.integers(len(self.policy))]:
            if rng.random() < probability:
                amount_at, has_sign = AMOUNTS[name]
                amount = amount_at(magnitude / 10)
                if has_sign:
                    amount = signed(amount, rng)
                image = OPERATIONS[name](image, amount, self._filling.canvas(rng))
        return {**sample, "image": RgbImage(np.asarray(image))}
