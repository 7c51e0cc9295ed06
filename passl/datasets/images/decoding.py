"""From the bytes of an image file to RGB pixels, the same ones that Pillow gives.

JPEG files are decoded by simplejpeg, which is libjpeg-turbo without Pillow's detour; what it cannot
do (other formats, CMYK, files it complains about) is left to Pillow.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import Optional

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError, __version__

from passl.datasets.images.failures import UnreadableImage, reading_failed
from passl.datasets.images.rgb_image import RgbImage
from passl.utils.errors import PasslError

# Height × width of the largest image that is decoded, the number at which Pillow gives up too.
MAX_PIXELS = 178_956_970

# Pillow's warnings name neither the file nor anything that is to be done. What matters of them is
# looked at here. A filter that comes and goes would be one for all threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

# First bytes of files that are often taken for images: what they are, and what to do.
_FOUND = (
    (rb"\Z", "is empty; fetch it again, or remove it"),
    (rb"\0{32}", "holds zeros in the place of an image, as after a broken copy; fetch it again"),
    (rb"version https://git-lfs", "is a pointer of Git LFS; run git lfs pull where it comes from"),
    (rb"\s*<(!doctype html|html|head|body)", "is a web page; download the image again"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype svg[^>]*>\s*)?<svg",
     "is an SVG drawing; save it as PNG"),
    (rb"%PDF", "is a PDF document; save its pictures as JPEG or PNG"),
    (rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf", "is an archive; unpack it"),
    (rb"....ftyp.{0,40}avi[fs]",
     "is an AVIF image, and damaged or of a kind that Pillow does not read (from 11.3 on it reads "
     f"most; here is {__version__}); convert it to JPEG or PNG"),
    (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)",
     "is a HEIC photo; convert it to JPEG (heif-convert, or an export from the phone)"),
    (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", "is a video; take single pictures out of it"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "is a JPEG XL image; convert it to JPEG or PNG"),
    (rb"II[*+]\0|MM\0[*+]", "is a TIFF of a kind that Pillow does not read (a camera's raw "
     "file, or channels of 32 bits?); save it as PNG"),
)  # fmt: skip


def decode_image(data: bytes, name: str, max_pixels: Optional[int] = MAX_PIXELS) -> RgbImage:
    """Decodes an image file to RGB.

    EXIF orientation is ignored, as everybody's ImageNet numbers have it. Of 16 bits a channel the
    upper eight are taken.

    Args:
        data: the file's content.
        name: what to call it in the error.
        max_pixels: the most pixels, height × width, that the file may claim to have; None for any
            number. It is looked at before memory is taken for them.

    Raises:
        UnreadableImage: anything that Pillow cannot decode, larger images, and pixels whose range
            is not known: floats, 32 bits, signed ones.
        PasslError: the memory is full.
    """
    pixels = _decode_jpeg(data, name, max_pixels)
    if pixels is None:
        pixels = _decode_with_pillow(data, name, max_pixels)
    return RgbImage(pixels)


def rgb_of(image: Image.Image, name: str) -> RgbImage:
    """Returns a PIL image as ``decode_image`` has its file.

    Args:
        image: in any mode.
        name: what to call it in the error.

    Raises:
        UnreadableImage: it cannot be loaded, or the range of its pixels is not known.
    """
    try:
        return RgbImage(np.asarray(_eight_bits(image, name).convert("RGB")))
    except PasslError:
        raise
    except Exception as error:  # of a file that it is loaded from only now
        raise UnreadableImage(f"{name}: cannot be read as an image ({error})") from None


def _decode_jpeg(data: bytes, name: str, max_pixels: Optional[int]) -> Optional[np.ndarray]:
    """Returns the pixels of a JPEG file that is as most are, or None."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray"):
            return None
        _check_size(height * width, name, max_pixels)
        return simplejpeg.decode_jpeg(data, "RGB")
    except PasslError:
        raise
    except ValueError:  # Pillow forgives more, or says what is wrong
        return None
    except MemoryError:
        raise _out_of_memory(height * width, name) from None


def _decode_with_pillow(data: bytes, name: str, max_pixels: Optional[int]) -> np.ndarray:
    _let_pillow_open(max_pixels)
    pixels = 0
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = image.width * image.height
            _check_size(pixels, name, max_pixels)
            return np.asarray(_eight_bits(image, name).convert("RGB"))
    except PasslError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(f"{name}: {_what_it_is(data)}") from None
    except Image.DecompressionBombError as error:
        found = re.search(r"\((\d+) pixels", str(error))
        _check_size(int(found[1]) if found else 1 << 62, name, max_pixels or 0)
        raise AssertionError from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, …
        if isinstance(error, MemoryError) or "out of memory" in str(error):
            raise _out_of_memory(pixels, name) from None
        if isinstance(error, OSError) and error.errno is not None:
            raise reading_failed(error, name) from None
        raise UnreadableImage(
            f"{name}: cannot be read as an image ({error}); repair or remove it"
        ) from None


def _let_pillow_open(max_pixels: Optional[int]) -> None:
    """Raises Pillow's limit where it is below ours; it refuses at twice the number.

    It is never lowered: whatever else this process opens with Pillow has nothing to do with ours.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if max_pixels is None:
        Image.MAX_IMAGE_PIXELS = None
    elif limit is not None and 2 * limit < max_pixels:
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)


def _check_size(pixels: int, name: str, max_pixels: Optional[int]) -> None:
    if max_pixels is not None and pixels > max_pixels:
        raise UnreadableImage(
            f"{name}: is too large: {pixels / 1e6:,.1f} megapixels by its header, and the limit is "
            f"{max_pixels / 1e6:,.1f}; shrink or remove it, or raise loader.max_pixels"
        )


def _out_of_memory(pixels: int, name: str) -> PasslError:
    return PasslError(
        f"{name}: there is not enough memory to decode its {pixels / 1e6:,.1f} megapixels; lower "
        "loader.num_workers, or loader.max_pixels to leave such images out"
    )


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Returns an image of 8 bits a channel, by the range that its format gives to its values.

    Pillow itself takes the upper eight bits of 16-bit colours, but clips grey values to 255.

    Raises:
        UnreadableImage: the format gives no range.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits = tags.get(258, (16,))[0]
    if image.mode == "F" or 3 in tags.get(339, ()):
        kind = "floating-point pixels"
    elif 2 in tags.get(339, ()):
        kind = "signed pixels"
    elif image.mode == "La":
        return image.convert("LA")
    elif not image.mode.startswith("I"):
        return image
    elif image.format not in ("PNG", "PPM", "JPEG2000", "TIFF") or bits > 16:
        kind = "pixels of more than 8 bits"
    else:
        values = np.asarray(image)
        if tags.get(262) == 0:  # white is zero, which Pillow passes over above 8 bits
            values = 2**bits - 1 - values
        return Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    raise UnreadableImage(
        f"{name}: has {kind}, whose range is not known; save it with 8 or 16 bits a channel"
    )


def _what_it_is(data: bytes) -> str:
    """Says what a file is that is no image for Pillow, and what to do."""
    for start, words in _FOUND:
        if re.match(start, data[:1024], re.DOTALL | re.IGNORECASE):
            return words
    return "is in no image format that is known; repair or remove it"
