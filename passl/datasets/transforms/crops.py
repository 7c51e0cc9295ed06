"""Cutting images out, and bringing them to one size."""

from __future__ import annotations

import math
from typing import Any, Dict, Sequence, Tuple, Union

import numpy as np
from PIL import Image

from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform
from passl.utils.errors import PasslError

Sample = Dict[str, Any]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def _filter(interpolation: str) -> Image.Resampling:
    if interpolation not in _FILTERS:
        raise PasslError(f"interpolation is one of {', '.join(_FILTERS)}, not '{interpolation}'")
    return _FILTERS[interpolation]


def _height_width(size: Union[int, Sequence[int]]) -> Tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise PasslError(f"size is one positive number or [height, width], not {size!r}")
    return pair


@TRANSFORMS.register
class RandomResizedCrop(Transform):
    """The "inception crop" (Szegedy et al., arXiv 1409.4842, section 6).

    A box of random area and aspect ratio, resized to ``size``; after ten boxes that do not fit,
    the largest centred box within the ratio bounds.

    Args:
        size: height and width of the result; one number for a square.
        scale: bounds of the box's share of the image area.
        ratio: bounds of width / height, drawn uniformly in the logarithm.
        interpolation: nearest, bilinear, bicubic or lanczos; all but nearest are antialiased.
            ``random`` draws bilinear or bicubic for every image, as timm does.
    """

    def __init__(
        self,
        size: Union[int, Sequence[int]],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bicubic",
    ):
        self.size = _height_width(size)
        for name, bounds, most in (("scale", scale, 1.0), ("ratio", ratio, math.inf)):
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= most:
                limit = f" ≤ {most:g}" if most < math.inf else ""
                raise PasslError(
                    f"{name} is [low, high] with 0 < low ≤ high{limit}, not {bounds!r}"
                )
        self.scale, self.ratio = tuple(scale), tuple(ratio)
        drawn = ("bilinear", "bicubic") if interpolation == "random" else (interpolation,)
        self.filters = [_filter(name) for name in drawn]

    def box(self, width: int, height: int, rng: np.random.Generator) -> Tuple[int, int, int, int]:
        """Draws (left, upper, right, lower) in pixels for an image of the given size."""
        log_ratio = np.log(self.ratio)
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(*log_ratio))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left = int(rng.integers(0, width - w + 1))
                top = int(rng.integers(0, height - h + 1))
                return left, top, left + w, top + h
        w, h = width, height
        if width < self.ratio[0] * height:
            h = max(1, round(width / self.ratio[0]))
        elif width > self.ratio[1] * height:
            w = max(1, round(height * self.ratio[1]))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = sample["image"]
        box = self.box(*image.size, rng)
        height, width = self.size
        drawn = int(rng.integers(len(self.filters))) if len(self.filters) > 1 else 0
        return {**sample, "image": image.resize((width, height), self.filters[drawn], box=box)}


@TRANSFORMS.register
class RandomCrop(Transform):
    """A box of fixed size at a random place of the padded image.

    Args:
        size: height and width of the result.
        padding: pixels added on every side first (4 for CIFAR-10: He et al., arXiv 1512.03385,
            section 4.2).
        fill: their grey: 0 is black, 255 white, as the ground of drawings often is.
    """

    def __init__(self, size: Union[int, Sequence[int]], padding: int = 0, fill: int = 0):
        self.size = _height_width(size)
        if padding < 0:
            raise PasslError(f"padding is at least 0, not {padding}")
        if not 0 <= fill <= 255:
            raise PasslError(f"fill is a grey from 0 to 255, not {fill}")
        self.padding, self.fill = padding, fill

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image, (height, width), pad = sample["image"], self.size, self.padding
        spare_x, spare_y = image.width + 2 * pad - width, image.height + 2 * pad - height
        if spare_x < 0 or spare_y < 0:
            raise PasslError(
                f"RandomCrop of {height}×{width} from a smaller image, {image.height}×"
                f"{image.width} with padding {pad}; enlarge the padding or use RandomResizedCrop"
            )
        left = int(rng.integers(0, spare_x + 1)) - pad
        top = int(rng.integers(0, spare_y + 1)) - pad
        if self.fill and pad:  # what a crop finds outside of an image is black
            sides = ((pad, pad), (pad, pad), (0, 0))
            image = RgbImage(np.pad(np.asarray(image), sides, constant_values=self.fill))
            left, top = left + pad, top + pad
        return {**sample, "image": image.crop((left, top, left + width, top + height))}


@TRANSFORMS.register
class Resize(Transform):
    """The whole image, brought to one size whatever its shape: a square one is squashed.

    Swin's, CvT's and ViT's authors evaluate so at 384 pixels.

    Args:
        size: height and width of the result; one number for a square.
        interpolation: nearest, bilinear, bicubic or lanczos; all but nearest are antialiased.
    """

    def __init__(self, size: Union[int, Sequence[int]], interpolation: str = "bicubic"):
        self.size = _height_width(size)
        self.filter = _filter(interpolation)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = self.size
        return {**sample, "image": sample["image"].resize((width, height), self.filter)}


@TRANSFORMS.register
class ResizeCenterCrop(Transform):
    """The evaluation view: a central crop that shows ``crop_ratio`` of the resized image.

    The short side is resized to floor(size / crop_ratio) and the centre cut out: 0.875 and 224
    mean a resize to 256. For a size that is not square the image is resized to just cover
    floor(height / crop_ratio) × floor(width / crop_ratio).

    Args:
        size: height and width of the result; one number for a square.
        crop_ratio: in (0, 1].
        interpolation: nearest, bilinear, bicubic or lanczos; all but nearest are antialiased.
    """

    def __init__(
        self,
        size: Union[int, Sequence[int]],
        crop_ratio: float = 0.875,
        interpolation: str = "bicubic",
    ):
        self.size = _height_width(size)
        if not 0 < crop_ratio <= 1:
            raise PasslError(f"crop_ratio lies in (0, 1], not {crop_ratio}")
        self.crop_ratio = crop_ratio
        self.filter = _filter(interpolation)

    def resized(self, width: int, height: int) -> Tuple[int, int]:
        """Returns the (width, height) that an image of the given size is resized to."""
        target_h, target_w = (math.floor(side / self.crop_ratio) for side in self.size)
        if width * target_h <= height * target_w:  # the width is what limits
            return target_w, max(target_h, int(target_w * height / width))
        return max(target_w, int(target_h * width / height)), target_h

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image, (height, width) = sample["image"], self.size
        new_size = self.resized(*image.size)
        left, top = round((new_size[0] - width) / 2), round((new_size[1] - height) / 2)
        window = (left, top, left + width, top + height)
        return {**sample, "image": image.resize(new_size, self.filter, window=window)}
