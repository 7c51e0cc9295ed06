"""The image that transforms work on."""

from __future__ import annotations

from typing import Any, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from passl.datasets.images.resampling import resize


class RgbImage:
    """An RGB image as an array, with the methods of a PIL image that transforms call.

    Results may share memory with the image that they were made from; nothing changes pixels.

    Args:
        pixels: uint8 ``[H, W, 3]``.
    """

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]

    @property
    def size(self) -> Tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height

    def resize(
        self,
        size: Tuple[int, int],
        resample: Image.Resampling,
        box: Optional[Sequence[int]] = None,
        window: Optional[Sequence[int]] = None,
    ) -> RgbImage:
        """Returns ``box`` at another size, or just ``window`` of that; see ``resampling``."""
        return RgbImage(resize(self.pixels, size, resample, box, window))

    def crop(self, box: Sequence[int]) -> RgbImage:
        """Returns a box (left, upper, right, lower); what lies outside of the image is black."""
        left, upper, right, lower = box
        inside = self.pixels[max(upper, 0) : max(lower, 0), max(left, 0) : max(right, 0)]
        if inside.shape[:2] == (lower - upper, right - left):
            return RgbImage(inside)
        pixels = np.zeros((lower - upper, right - left, 3), np.uint8)
        top, begin = max(-upper, 0), max(-left, 0)
        pixels[top : top + inside.shape[0], begin : begin + inside.shape[1]] = inside
        return RgbImage(pixels)

    def transpose(self, method: Image.Transpose) -> RgbImage:
        """Returns the image mirrored."""
        if method == Image.Transpose.FLIP_LEFT_RIGHT:
            return RgbImage(self.pixels[:, ::-1])
        if method == Image.Transpose.FLIP_TOP_BOTTOM:
            return RgbImage(self.pixels[::-1])
        raise ValueError(method)

    def to_pil(self) -> Image.Image:
        """Returns a copy as a PIL image in mode RGB."""
        return Image.fromarray(np.ascontiguousarray(self.pixels))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        # NumPy 2 asks for a copy here and takes it for one; NumPy 1 makes it by itself.
        return self.pixels.copy() if copy else np.ascontiguousarray(self.pixels)
