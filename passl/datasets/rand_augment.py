"""RandAugment (Cubuk, Zoph, Shlens, Le, arXiv 1909.13719), as the authors of MLP-Mixer used it.

Their code (big_vision, pp/autoaugment.py) counts magnitudes on a scale on which AutoAugment's
largest is 10: magnitude 15, of MLP-Mixer's recipe, is one and a half times that.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Tuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from passl.datasets.images import RgbImage
from passl.datasets.registry import TRANSFORMS
from passl.utils.errors import PasslError

_GREY = (128, 128, 128)  # what is uncovered or cut out
_SIZE = 224  # the image size that pixels were meant for

Operation = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _affine(image: Image.Image, matrix: Tuple[float, ...]) -> Image.Image:
    """Takes the pixel at (x, y) from (a x + b y + c, d x + e y + f), the nearest one."""
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=_GREY
    )


def _rotate(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return image.rotate(_sign(rng) * 30.0 * level, Image.Resampling.NEAREST, fillcolor=_GREY)


def _shear_x(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, _sign(rng) * 0.3 * level, 0, 0, 1, 0))


def _shear_y(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, 0, 0, _sign(rng) * 0.3 * level, 1, 0))


def _translate_x(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, 0, _sign(rng) * 100 * level * image.width / _SIZE, 0, 1, 0))


def _translate_y(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, _sign(rng) * 100 * level * image.height / _SIZE))


def _cutout(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    half = int(40 * level * min(image.size) / _SIZE)
    x, y = int(rng.integers(image.width)), int(rng.integers(image.height))
    image.paste(
        _GREY,
        (
            max(x - half, 0),
            max(y - half, 0),
            min(x + half, image.width),
            min(y + half, image.height),
        ),
    )
    return image


def _posterize(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    bits = min(int(4 * level), 8)
    return image.point([value & (256 - (1 << (8 - bits))) for value in range(256)] * 3)


def _solarize(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return ImageOps.solarize(image, int(256 * level))


def _solarize_add(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    added = int(110 * level)
    return image.point([min(v + added, 255) if v < 128 else v for v in range(256)] * 3)


def _enhance(kind: Any) -> Operation:
    return lambda image, level, rng: kind(image).enhance(1.8 * level + 0.1)


# In the order of the authors' list.
OPERATIONS: Dict[str, Operation] = {
    "AutoContrast": lambda image, level, rng: ImageOps.autocontrast(image),
    "Equalize": lambda image, level, rng: ImageOps.equalize(image),
    "Invert": lambda image, level, rng: ImageOps.invert(image),
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Cutout": _cutout,
    "SolarizeAdd": _solarize_add,
}


@TRANSFORMS.register
class RandAugment:
    """Applies a few operations, each drawn from all sixteen with the same probability.

    Args:
        layers: how many, one after the other (N of the paper).
        magnitude: their strength (M), the same for all; at 10 rotations are by 30 degrees, shears
            by 0.3, translations by 100 pixels of 224, and posterizing keeps 4 bits. As in the
            authors' code more is not stronger for all: from 10 on solarizing does nothing, and
            at 5 neither do enhancements.

    Raises:
        PasslError: a number out of bounds.
    """

    def __init__(self, layers: int = 2, magnitude: float = 15.0):
        if layers < 1:
            raise PasslError(f"layers is at least 1, not {layers}")
        if not 0 <= magnitude <= 30:
            raise PasslError(f"magnitude lies in [0, 30], not {magnitude}")
        self.layers, self.magnitude = layers, magnitude
        self._operations = list(OPERATIONS.values())

    def __call__(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        image = sample["image"].to_pil()
        for choice in rng.integers(len(self._operations), size=self.layers):
            image = self._operations[choice](image, self.magnitude / 10.0, rng)
        return {**sample, "image": RgbImage(np.asarray(image))}
