"""From the bytes of an image file to RGB pixels, the same ones that Pillow gives.

JPEG files are decoded by simplejpeg, which is libjpeg-turbo without Pillow's detour; what it cannot
do (other formats, CMYK, files it complains about) is left to Pillow.
"""

from __future__ import annotations

import io
from typing import Optional

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from passl.datasets.images import RgbImage
from passl.utils.errors import PasslError


class UnreadableImage(PasslError):
    """An image file that is missing, truncated or not an image."""


def decode_image(data: bytes, name: str) -> RgbImage:
    """Decodes an image file to RGB.

    EXIF orientation is ignored, as everybody's ImageNet numbers have it.

    Args:
        data: the file's content.
        name: what to call it in the error.

    Raises:
        UnreadableImage: anything that Pillow cannot decode.
    """
    pixels = _decode_jpeg(data)
    return RgbImage(_decode_with_pillow(data, name) if pixels is None else pixels)


def _decode_jpeg(data: bytes) -> Optional[np.ndarray]:
    """Returns the pixels of a JPEG file that is as most are, or None."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        _, _, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray"):
            return None
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:  # Pillow forgives more, or says what is wrong
        return None


def _decode_with_pillow(data: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to 8
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise UnreadableImage(
            f"{name}: is in no image format that is known; repair or remove it"
        ) from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, …
        raise UnreadableImage(
            f"{name}: cannot be read as an image ({error}); repair or remove it"
        ) from None
