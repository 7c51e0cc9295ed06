"""RandAugment (Cubuk, Zoph, Shlens, Le, arXiv 1909.13719).

Two sets of operations go by that name. The authors of MLP-Mixer use that of their own code
(big_vision, pp/archive/randaug.py), which counts magnitudes on a scale on which AutoAugment's
largest is 10: magnitude 15, of MLP-Mixer's recipe, is one and a half times that. timm's
"increasing" set, with which most networks of the years since were trained, makes every operation
stronger with the magnitude.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform, check_probability
from passl.datasets.transforms.operations import OPERATIONS, Filling, signed
from passl.utils.errors import PasslError

# The operation, its amount at a level (magnitude / 10), and whether the amount gets a random sign.
Entry = Tuple[str, Callable[[float], float], bool]


def _none(level: float) -> float:
    return 0.0


def _enhancement(level: float) -> float:
    return 1.8 * level + 0.1


# Translations and cutout are by so many pixels of an image of 224.
_PIXELS, _CUTOUT = 100 / 224, 40 / 224

# In the order of the authors' list.
AUTHORS: Dict[str, Entry] = {
    "AutoContrast": ("AutoContrast", _none, False),
    "Equalize": ("Equalize", _none, False),
    "Invert": ("Invert", _none, False),
    "Rotate": ("Rotate", lambda level: 30 * level, True),
    "Posterize": ("Posterize", lambda level: int(4 * level), False),
    "Solarize": ("Solarize", lambda level: int(256 * level), False),
    "Color": ("Color", _enhancement, False),
    "Contrast": ("Contrast", _enhancement, False),
    "Brightness": ("Brightness", _enhancement, False),
    "Sharpness": ("Sharpness", _enhancement, False),
    "ShearX": ("ShearX", lambda level: 0.3 * level, True),
    "ShearY": ("ShearY", lambda level: 0.3 * level, True),
    "TranslateX": ("TranslateX", lambda level: _PIXELS * level, True),
    "TranslateY": ("TranslateY", lambda level: _PIXELS * level, True),
    "Cutout": ("Cutout", lambda level: _CUTOUT * level, False),
    "SolarizeAdd": ("SolarizeAdd", lambda level: int(110 * level), False),
}


def _away_from_one(level: float) -> float:
    return 0.9 * level  # added to a factor of 1, or subtracted


# timm/data/auto_augment.py, _RAND_INCREASING_TRANSFORMS.
INCREASING: Dict[str, Entry] = {
    "AutoContrast": ("AutoContrast", _none, False),
    "Equalize": ("Equalize", _none, False),
    "Invert": ("Invert", _none, False),
    "Rotate": ("Rotate", lambda level: 30 * level, True),
    "Posterize": ("Posterize", lambda level: 4 - int(4 * level), False),
    "Solarize": ("Solarize", lambda level: 256 - min(256, int(256 * level)), False),
    "SolarizeAdd": ("SolarizeAdd", lambda level: min(128, int(110 * level)), False),
    "Color": ("Color", _away_from_one, True),
    "Contrast": ("Contrast", _away_from_one, True),
    "Brightness": ("Brightness", _away_from_one, True),
    "Sharpness": ("Sharpness", _away_from_one, True),
    "ShearX": ("ShearX", lambda level: 0.3 * level, True),
    "ShearY": ("ShearY", lambda level: 0.3 * level, True),
    "TranslateX": ("TranslateX", lambda level: 0.45 * level, True),
    "TranslateY": ("TranslateY", lambda level: 0.45 * level, True),
}
_FACTORS = ("Color", "Contrast", "Brightness", "Sharpness")


def cutout(
    image: Image.Image, share: float, fill: Tuple[int, int, int], rng: np.random.Generator
) -> Image.Image:
    """Paints a square, ``share`` of the shorter side to each side of a random pixel."""
    half = int(share * min(image.size))
    x, y = int(rng.integers(image.width)), int(rng.integers(image.height))
    right, lower = min(x + half, image.width), min(y + half, image.height)
    image.paste(fill, (max(x - half, 0), max(y - half, 0), right, lower))
    return image


@TRANSFORMS.register
class RandAugment(Transform):
    """Applies a few operations, each drawn from the whole set with the same probability.

    Args:
        layers: how many, one after the other (N of the paper).
        magnitude: their strength (M), the same for all; at 10 rotations are by 30 degrees, shears
            by 0.3, translations by 0.45 of the image.
        operations: ``authors``, the sixteen of MLP-Mixer's authors, or ``increasing``, timm's
            fifteen. Among the authors' more is not stronger for all: from 10 on solarizing does
            nothing, and at 5 neither do enhancements.
        probability: that an operation which was drawn is applied; default 1 for ``authors``, 0.5
            for ``increasing``.
        magnitude_std: standard deviation of the magnitude, drawn anew for each operation and cut
            off at 0 and, for ``increasing``, at 10.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``random`` (of the last two);
            default ``nearest`` for ``authors``, ``random`` for ``increasing``.
        fill: the colour beside the image, and that of cutout.

    Raises:
        PasslError: an argument out of bounds.
    """

    def __init__(
        self,
        layers: int = 2,
        magnitude: float = 15.0,
        operations: str = "authors",
        probability: Optional[float] = None,
        magnitude_std: float = 0.0,
        interpolation: Optional[str] = None,
        fill: Sequence[int] = (128, 128, 128),
    ):
        sets = {
            "authors": (AUTHORS, 1.0, "nearest", 30),
            "increasing": (INCREASING, 0.5, "random", 10),
        }
        if operations not in sets:
            raise PasslError(f"operations is 'authors' or 'increasing', not '{operations}'")
        entries, default_probability, default_interpolation, most = sets[operations]
        if layers < 1:
            raise PasslError(f"layers is at least 1, not {layers}")
        if not 0 <= magnitude <= most:
            raise PasslError(
                f"magnitude lies in [0, {most}] for operations: {operations}, not {magnitude}"
            )
        if not magnitude_std >= 0:
            raise PasslError(f"magnitude_std is at least 0, not {magnitude_std}")
        self.probability = default_probability if probability is None else probability
        check_probability(self.probability)
        self.layers, self.magnitude, self.magnitude_std = layers, magnitude, magnitude_std
        self.entries, self._most = list(entries.values()), most
        self._filling = Filling(interpolation or default_interpolation, fill)
        self._relative = _FACTORS if operations == "increasing" else ()

    def __call__(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        image = sample["image"].to_pil()
        for choice in rng.integers(len(self.entries), size=self.layers):
            if self.probability == 1 or rng.random() < self.probability:
                image = self.apply(image, self.entries[choice], rng)
        return {**sample, "image": RgbImage(np.asarray(image))}

    def apply(self, image: Image.Image, entry: Entry, rng: np.random.Generator) -> Image.Image:
        """Applies one operation at the magnitude, or one drawn around it."""
        magnitude = self.magnitude
        if self.magnitude_std:
            magnitude = min(max(rng.normal(magnitude, self.magnitude_std), 0.0), self._most)
        name, amount_at, has_sign = entry
        amount = amount_at(magnitude / 10)
        if has_sign:
            amount = signed(amount, rng)
        if name in self._relative:
            amount = max(0.1, 1 + amount)
        canvas = self._filling.canvas(rng)
        if name == "Cutout":
            return cutout(image, amount, canvas.fill, rng)
        return OPERATIONS[name](image, amount, canvas)
