"""Operations on images that augmentation policies are made of, in units that mean something.

Each takes an image in mode RGB, an amount, and how to fill in the pixels between and beside those
that there are. The policies (RandAugment, AutoAugment, TrivialAugment) say which are drawn, and
what amount belongs to which strength. Colours are changed as Pillow does it: ITU-R 601-2 luma for
grey, ``ImageEnhance`` for blending.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from passl.utils.errors import PasslError


class Canvas(NamedTuple):
    """How geometric operations fill in pixels."""

    resample: Image.Resampling  # between those that there are
    fill: Tuple[int, int, int]  # where there are none


Operation = Callable[[Image.Image, float, Canvas], Image.Image]


def _affine(image: Image.Image, matrix: Tuple[float, ...], canvas: Canvas) -> Image.Image:
    """Takes the pixel at (x, y) from (a x + b y + c, d x + e y + f)."""
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, canvas.resample, fillcolor=canvas.fill
    )


def _rotate(image: Image.Image, degrees: float, canvas: Canvas) -> Image.Image:
    return image.rotate(degrees, canvas.resample, fillcolor=canvas.fill)


def _shear_x(image: Image.Image, factor: float, canvas: Canvas) -> Image.Image:
    return _affine(image, (1, factor, 0, 0, 1, 0), canvas)


def _shear_y(image: Image.Image, factor: float, canvas: Canvas) -> Image.Image:
    return _affine(image, (1, 0, 0, factor, 1, 0), canvas)


def _translate_x(image: Image.Image, share: float, canvas: Canvas) -> Image.Image:
    return _affine(image, (1, 0, share * image.width, 0, 1, 0), canvas)


def _translate_y(image: Image.Image, share: float, canvas: Canvas) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, share * image.height), canvas)


def _posterize(image: Image.Image, bits: float, canvas: Canvas) -> Image.Image:
    dropped = 8 - min(int(bits), 8)
    return image.point([value >> dropped << dropped for value in range(256)] * 3)


def _solarize(image: Image.Image, threshold: float, canvas: Canvas) -> Image.Image:
    return ImageOps.solarize(image, threshold)


def _solarize_add(image: Image.Image, added: float, canvas: Canvas) -> Image.Image:
    return image.point([min(v + int(added), 255) if v < 128 else v for v in range(256)] * 3)


def _enhance(kind: Any) -> Operation:
    return lambda image, factor, canvas: kind(image).enhance(factor)


# By the names of the papers, with the unit of the amount.
OPERATIONS: Dict[str, Operation] = {
    "Identity": lambda image, amount, canvas: image,
    "AutoContrast": lambda image, amount, canvas: ImageOps.autocontrast(image),
    "Equalize": lambda image, amount, canvas: ImageOps.equalize(image),
    "Invert": lambda image, amount, canvas: ImageOps.invert(image),
    "Rotate": _rotate,  # degrees, counter-clockwise
    "Posterize": _posterize,  # bits kept
    "Solarize": _solarize,  # from which value on colours are inverted
    "SolarizeAdd": _solarize_add,  # added to values below 128
    "Color": _enhance(ImageEnhance.Color),  # factors: 0 is grey (black, smooth), 1 changes nothing
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "ShearX": _shear_x,  # pixels a pixel
    "ShearY": _shear_y,
    "TranslateX": _translate_x,  # share of the width
    "TranslateY": _translate_y,  # share of the height
}

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class Filling:
    """What a policy's ``interpolation`` and ``fill`` mean.

    Args:
        interpolation: ``nearest``, ``bilinear``, ``bicubic``, or ``random``: one of the last two,
            drawn anew for each operation.
        fill: red, green and blue, 0 to 255.
    """

    def __init__(self, interpolation: str, fill: Sequence[int]):
        if interpolation != "random" and interpolation not in _FILTERS:
            raise PasslError(
                f"interpolation is one of {', '.join(_FILTERS)}, random; not '{interpolation}'"
            )
        if len(fill) != 3 or not 0 <= min(fill) <= max(fill) <= 255:
            raise PasslError(f"fill is [red, green, blue], each in [0, 255]; not {list(fill)}")
        self._fixed: Optional[Image.Resampling] = _FILTERS.get(interpolation)
        self._fill = tuple(fill)

    def canvas(self, rng: np.random.Generator) -> Canvas:
        """Returns it for one operation."""
        resample = self._fixed
        if resample is None:
            resample = _FILTERS["bilinear" if rng.random() < 0.5 else "bicubic"]
        return Canvas(resample, self._fill)


def signed(amount: float, rng: np.random.Generator) -> float:
    """Returns the amount with a random sign."""
    return amount if rng.random() < 0.5 else -amount
