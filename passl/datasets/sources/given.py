"""Images that a program hands over: paths, PIL images and arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np
from PIL import Image

from passl.datasets.dataset import ImageDataset
from passl.datasets.images.decoding import decode_image, rgb_of
from passl.datasets.images.failures import reading_failed
from passl.datasets.images.rgb_image import RgbImage
from passl.utils.errors import PasslError


class GivenImages(ImageDataset):
    """Images that there are; the label of each is its place in the list.

    Args:
        images: paths, PIL images, or arrays uint8 ``[H, W, 3]`` (RGB) or ``[H, W]`` (grey).
        transforms: configs of the sample transforms.

    Raises:
        PasslError: anything else.
    """

    def __init__(self, images: Sequence[Any], transforms: Sequence[Mapping[str, Any]] = ()):
        super().__init__(np.arange(len(images)), None, transforms)
        self.images = list(images)
        for index, image in enumerate(self.images):
            if not isinstance(image, (str, os.PathLike, Image.Image)):
                _check_array(image, self.where(index))

    def read(self, index: int) -> RgbImage:
        image, name = self.images[index], self.where(index)
        if isinstance(image, (str, os.PathLike)):
            try:
                data = Path(image).read_bytes()
            except OSError as error:
                raise reading_failed(error, name) from None
            return decode_image(data, name, self.max_pixels)
        if isinstance(image, Image.Image):
            return rgb_of(image, name)
        pixels = np.asarray(image)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        return RgbImage(pixels)

    def where(self, index: int) -> str:
        image = self.images[index]
        return os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"image {index}"


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
