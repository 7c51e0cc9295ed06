"""From the bytes of an image file to RGB pixels, the same ones whoever decodes them.

Two decoders give images on which transforms can be called alike:

- ``pillow``: a PIL image. Resizing is Pillow's, which is what published accuracies were measured
  with.
- ``opencv``: an ``ArrayImage``. Resizing is OpenCV's, several times as fast: shrinking averages
  over areas, so it is antialiased as well, but the pixels are not the same to the last bit.

JPEG files are decoded by simplejpeg for both, which is libjpeg-turbo without Pillow's detour; what
it cannot do (other formats, CMYK, files it complains about) is left to Pillow.
"""

from __future__ import annotations

import io
from typing import Any, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from passl.utils.errors import PasslError

DECODERS = ("pillow", "opencv")

# Shrinking by this much or more averages over areas; by less, the filter for enlarging is nearer to
# Pillow's result (both differ from it by 1.2 of 255 levels there, on ImageNet's photographs).
_AREA_FROM = 1.15

# A worker has one core; OpenCV's own threads would also not survive the fork.
cv2.setNumThreads(0)


class UnreadableImage(PasslError):
    """An image file that is missing, truncated or not an image."""


class ArrayImage:
    """An RGB image as an array, with the methods of a PIL image that transforms call.

    Args:
        pixels: uint8 ``[H, W, 3]``.
    """

    _ENLARGE = {
        Image.Resampling.NEAREST: cv2.INTER_NEAREST,
        Image.Resampling.BILINEAR: cv2.INTER_LINEAR,
        Image.Resampling.BICUBIC: cv2.INTER_CUBIC,
        Image.Resampling.LANCZOS: cv2.INTER_LANCZOS4,
    }

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
    ) -> ArrayImage:
        """Returns ``box`` (left, upper, right, lower; default: everything) at another size."""
        left, upper, right, lower = box or (0, 0, self.width, self.height)
        region = self.pixels[upper:lower, left:right]
        scale = min(region.shape[1] / size[0], region.shape[0] / size[1])
        how = self._ENLARGE[resample]
        if scale >= _AREA_FROM and how != cv2.INTER_NEAREST:
            how = cv2.INTER_AREA
        return ArrayImage(cv2.resize(region, tuple(size), interpolation=how))

    def crop(self, box: Sequence[int]) -> ArrayImage:
        """Returns a box; what lies outside of the image is black."""
        left, upper, right, lower = box
        inside = self.pixels[max(upper, 0) : max(lower, 0), max(left, 0) : max(right, 0)]
        if inside.shape[:2] == (lower - upper, right - left):
            return ArrayImage(inside)
        pixels = np.zeros((lower - upper, right - left, 3), np.uint8)
        top, begin = max(-upper, 0), max(-left, 0)
        pixels[top : top + inside.shape[0], begin : begin + inside.shape[1]] = inside
        return ArrayImage(pixels)

    def transpose(self, method: Image.Transpose) -> ArrayImage:
        """Returns the image mirrored."""
        if method == Image.Transpose.FLIP_LEFT_RIGHT:
            return ArrayImage(self.pixels[:, ::-1])
        if method == Image.Transpose.FLIP_TOP_BOTTOM:
            return ArrayImage(self.pixels[::-1])
        raise ValueError(method)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.ascontiguousarray(self.pixels)


def decode_image(data: bytes, name: str, decoder: str = "pillow") -> Union[Image.Image, ArrayImage]:
    """Decodes an image file to RGB.

    EXIF orientation is ignored, as everybody's ImageNet numbers have it.

    Args:
        data: the file's content.
        name: what to call it in the error.
        decoder: ``pillow`` or ``opencv``: what kind of image comes out.

    Raises:
        UnreadableImage: anything that Pillow cannot decode.
    """
    pixels = _decode_jpeg(data)
    if pixels is None:
        image = _decode_with_pillow(data, name)
        return image if decoder == "pillow" else ArrayImage(np.asarray(image))
    return Image.fromarray(pixels) if decoder == "pillow" else ArrayImage(pixels)


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


def _decode_with_pillow(data: bytes, name: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to 8
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise UnreadableImage(
            f"{name}: is in no image format that is known; repair or remove it"
        ) from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, …
        raise UnreadableImage(
            f"{name}: cannot be read as an image ({error}); repair or remove it"
        ) from None


def check_decoder(decoder: str) -> str:
    """Returns ``decoder``, or raises PasslError where there is none of that name."""
    if decoder not in DECODERS:
        raise PasslError(f"decoder is one of {', '.join(DECODERS)}, not '{decoder}'")
    return decoder
