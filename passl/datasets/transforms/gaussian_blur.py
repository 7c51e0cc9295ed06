"""Blurring."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

import numpy as np
from PIL import ImageFilter

from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform, check_probability
from passl.utils.errors import PasslError

_PADDING = {"mirror": "symmetric", "zeros": "constant"}


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
        border: what that kernel finds outside of the image: ``mirror``, the image mirrored, or
            ``zeros``, as in the code of SimCLR and BYOL, which takes 40 % of the light from the
            outermost row at a deviation of 2. Pillow repeats the outermost pixels in each pass.
    """

    def __init__(
        self,
        probability: float = 0.5,
        sigma: Sequence[float] = (0.1, 2.0),
        method: str = "pillow",
        kernel_size: Optional[int] = None,
        border: str = "mirror",
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
        if border not in _PADDING or (border != "mirror" and method == "pillow"):
            raise PasslError(
                f"border is mirror or zeros, with method kernel, not {border} with {method}"
            )
        self.probability, self.sigma = probability, tuple(sigma)
        self.method, self.kernel_size, self.border = method, kernel_size, border

    def __call__(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        if rng.random() >= self.probability:
            return sample
        image, sigma = sample["image"], rng.uniform(*self.sigma)
        if self.method == "pillow":
            blurred = np.asarray(image.to_pil().filter(ImageFilter.GaussianBlur(sigma)))
        else:
            size = image.height // 10 if self.kernel_size is None else self.kernel_size
            blurred = _blurred(np.asarray(image), sigma, size // 2, _PADDING[self.border])
        return {**sample, "image": RgbImage(blurred)}


def _blurred(pixels: np.ndarray, sigma: float, radius: int, padding: str) -> np.ndarray:
    """Returns uint8 ``[H, W, 3]`` blurred along both axes; ``padding`` is ``np.pad``'s mode."""
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-(offsets**2) / (2.0 * sigma**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    values = pixels.astype(np.float32)
    for _ in range(2):
        padded = np.pad(values, [(radius, radius), (0, 0), (0, 0)], mode=padding)
        total, part = np.zeros_like(values), np.empty_like(values)
        for begin, weight in enumerate(kernel):
            np.multiply(padded[begin : begin + len(values)], weight, out=part)
            total += part
        # Whole rows are added: the other axis takes its turn by becoming the first one.
        values = np.ascontiguousarray(total.swapaxes(0, 1))
    return np.rint(values).clip(0, 255).astype(np.uint8)
