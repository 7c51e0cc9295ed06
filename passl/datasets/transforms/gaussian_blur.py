"""Blurring."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

import numpy as np
from PIL import ImageFilter

from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform, check_probability
from passl.utils.errors import PasslError


@TRANSFORMS.register
class GaussianBlur(Transform):
    """Blurs the image by a Gaussian whose standard deviation is drawn evenly.

    Args:
        probability: that it is done (SimCLR and MoCo v2: 0.5; BYOL: 1 of the first view, 0.1 of the
            second).
        sigma: the least and the largest standard deviation, in pixels.
        method: ``pillow`` is that library's filter, three box filters that come near a Gaussian, as
            MoCo and DINO have it; ``kernel`` is the exact one, cut off and made to sum up to 1, as
            SimCLR and BYOL have it.
        kernel_size: pixels of that kernel, an odd number; None for a tenth of the image's height,
            or one more if that is even: 23 of 224 pixels (arXiv 2002.05709, appendix A).

    What lies outside of the image is its mirror image. The authors of SimCLR and BYOL put zeros
    there, as TensorFlow's and JAX's convolutions do, which darkens the outer rows by up to 40 of
    256 grey levels.
    """

    def __init__(
        self,
        probability: float = 0.5,
        sigma: Sequence[float] = (0.1, 2.0),
        method: str = "pillow",
        kernel_size: Optional[int] = None,
    ):
        check_probability(probability)
        if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1]:
            raise PasslError(f"sigma is [low, high], pixels above 0, not {list(sigma)}")
        if method not in ("pillow", "kernel"):
            raise PasslError(f"method is pillow or kernel, not {method!r}")
        odd = kernel_size is None or (kernel_size > 0 and kernel_size % 2 == 1)
        if not odd or (kernel_size is not None and method == "pillow"):
            raise PasslError(
                f"kernel_size is an odd number of pixels, with method kernel, not {kernel_size} "
                f"with {method}"
            )
        self.probability, self.sigma = probability, tuple(sigma)
        self.method, self.kernel_size = method, kernel_size

    def __call__(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        if rng.random() >= self.probability:
            return sample
        image, sigma = sample["image"], rng.uniform(*self.sigma)
        if self.method == "pillow":
            blurred = np.asarray(image.to_pil().filter(ImageFilter.GaussianBlur(sigma)))
        else:
            size = image.height // 10 if self.kernel_size is None else self.kernel_size
            blurred = _blurred(np.asarray(image), sigma, size // 2)
        return {**sample, "image": RgbImage(blurred)}


def _blurred(pixels: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    """Returns uint8 ``[H, W, 3]`` blurred along both axes, one after the other."""
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-(offsets**2) / (2.0 * sigma**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    values = pixels.astype(np.float32)
    for axis in (0, 1):
        length = values.shape[axis]
        margins = [(0, 0)] * 3
        margins[axis] = (radius, radius)
        padded = np.pad(values, margins, mode="symmetric")
        values = np.zeros_like(values)
        for begin, weight in enumerate(kernel):
            values += weight * padded.take(range(begin, begin + length), axis)
    return np.rint(values).clip(0, 255).astype(np.uint8)
