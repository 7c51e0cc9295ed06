"""Images that a program hands over: paths, PIL images and arrays."""

from __future__ import annotations

import os
from typing import Any, Mapping, Sequence

import numpy as np
from PIL import Image

from passl.datasets.images.decoding import rgb_of
from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.sources.paths import ImagePaths
from passl.utils.errors import PasslError


class GivenImages(ImagePaths):
    """Images that there are; the label of each is its place in the list.

    Args:
        images: paths, PIL images, or arrays uint8 ``[H, W, 3]`` (RGB) or ``[H, W]`` (grey).
        transforms: configs of the sample transforms.

    Raises:
        PasslError: anything else.
    """

    def __init__(self, images: Sequence[Any], transforms: Sequence[Mapping[str, Any]] = ()):
        self.images = list(images)
        paths = [
            os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"image {index}"
            for index, image in enumerate(self.images)
        ]
        super().__init__(paths, transforms)
        for image, name in zip(self.images, paths):
            if not isinstance(image, (str, os.PathLike, Image.Image)):
                _check_array(image, name)

    def read(self, index: int) -> RgbImage:
        image = self.images[index]
        if isinstance(image, (str, os.PathLike)):
            return super().read(index)
        if isinstance(image, Image.Image):
            return rgb_of(image, self.where(index))
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        return RgbImage(pixels)


def _check_array(image: Any, name: str) -> None:
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape is None or dtype is None:
        raise PasslError(
            f"{name}: is a {type(image).__name__}; an image is a path, a PIL image, or an array "
            "uint8 [H, W, 3]"
        )
    right = len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    if dtype != np.uint8 or not right or 0 in shape:
        raise PasslError(
            f"{name}: is an array {dtype} {list(shape)}; an image is uint8 [H, W, 3], of RGB from "
            "0 to 255, or [H, W] of grey"
        )
